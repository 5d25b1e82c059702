"""A certificate for ``localhost`` that no authority has signed, as development servers make them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Made for these tests alone; valid for 100 years.
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKVHu3zutTOJzky2T
ycwgGStXEDXOLfHU1Md4Pwh3BpKhRANCAAStGJ6xVuFCgrBp1M6c1aIv6IYdaLQM
FTOMLDg9PXS4vKahD2M8eCL2YigI7+oEpOvXCz9O3J4NlrNKJzu2UZov
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBljCCATugAwIBAgIUSzyDqknttdtJwQZURQLGH/6QeigwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyOTA3NDQ1NVoYDzIxMjYxMTA1
MDc0NDU1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAStGJ6xVuFCgrBp1M6c1aIv6IYdaLQMFTOMLDg9PXS4vKahD2M8eCL2
YigI7+oEpOvXCz9O3J4NlrNKJzu2UZovo2kwZzAdBgNVHQ4EFgQUOE1HYbOCO2tx
NCMEBOn84HwSVPswHwYDVR0jBBgwFoAUOE1HYbOCO2txNCMEBOn84HwSVPswDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SQAwRgIhAJJ0qo5b5XCk7AZL95QeKzpM3fcGeGbsDfOCu4RXAlhEAiEA/M7TvyH4
jQbto1+We1c1FhYw+huNLWbOGE9tVGo+g3k=
-----END CERTIFICATE-----
"""


def written(folder: Path) -> tuple[Path, Path]:
    """Write certificate and key to files."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_text(CERTIFICATE)
    key.write_text(KEY)
    return certificate, key


def server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*written(folder))
    return context
