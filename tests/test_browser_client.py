"""The script in a page, in a real browser; the test plays the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser_kit import LOCAL, Site, count_navigations, document, until
from tests.project_kit import browser_without

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page, Route, WebSocketRoute

pytestmark = [pytest.mark.real, pytest.mark.browser]

ERROR: dict[str, Any] = {
    "process": "api",
    "error_type": "KeyError",
    "message": "<b>'wholesale'</b>",
    "file": "/home/ada/shop/backend/rules.py",
    "line": 128,
    "frames": [
        {
            "file": "/v/lib/python3.12/site-packages/starlette/app.py",
            "line": 7,
            "function": "run",
            "code": "",
        },
        {
            "file": "/home/ada/shop/backend/rules.py",
            "line": 128,
            "function": "price",
            "code": "  RULES[group]",
        },
    ],
    "exit": "exit code 1",
    "last_lines": ["Traceback (most recent call last):", "KeyError"],
    "is_fatal": True,
}
STRICT = {
    "Content_Security_Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
}
TALL = "<div style='height: 4000px'></div>"
FORM = f"""
<form id=order>
  <input name=name> <input name=coupon value=none> <textarea name=note>nothing</textarea>
  <select name=size><option>S<option>M</select> <input type=checkbox name=gift> <input type=range name=count>
  <input type=radio name=pay value=now checked> <input type=radio name=pay value=later>
  <input name=row> <input name=row>
</form>
<form autocomplete=off><input name=off></form>
<input type=password name=pw> <input name=shown_password> <input name=number autocomplete="billing cc-number">
<input type=hidden name=csrf value=a> <input name=unseen style="display: none">
<div id=box style="height: 50px; overflow: auto">{TALL}</div>
{TALL}
<script>
  window.heard = []
  for (const name of ["input", "change"])
    addEventListener(name, event => heard.push([name, event.target.name]))
</script>
"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


# Not called `browser`: pytest would order tests by that of pytest-playwright, and start each run twice.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser_without([], omitted=["--disable-back-forward-cache"]) as launched:
        yield launched


@pytest.fixture(scope="module")
def served() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    with chromium.new_context() as opened:
        yield opened


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    assert not errors


@pytest.fixture
def site(served: Site, page: Page) -> Iterator[Site]:
    served.greeting = [LOCAL]
    served.asked.clear()
    yield served
    page.goto("about:blank")
    assert served.is_quiet(0.0)  # a connection that a test has not waited for would be the next one's


def overlay_text(page: Page) -> str:
    return page.inner_text("orchestra-overlay [role=dialog]")


def test_a_page_says_what_it_is_and_how_old(site: Site, page: Page) -> None:
    again = '<script src="/__orchestra__/client.js" async></script>'
    site.answers("/form", document("<form method=post action=/done><button>Send</button></form>" + again))
    site.answers("/done", document("done", tag=' data-method="POST" data-status="422"'))
    page.goto(f"{site.url}/form?q=1")
    said = site.connected()
    assert 0 <= said.pop("age") < 60_000
    assert said == {"type": "page", "from": "backend", "path": "/form", "method": "GET", "status": 200}
    page.click("button")
    said = site.connected()
    assert (said["path"], said["method"], said["status"]) == ("/done", "POST", 422)
    # A second inclusion has done nothing.
    assert site.is_quiet(0.3)


def test_what_was_typed_and_scrolled_survives_one_reload(site: Site, page: Page) -> None:
    # What is stored between the two documents; it runs before any script of the page.
    page.add_init_script("window.stored = location.host && JSON.stringify(sessionStorage)")
    site.answers("/", document(FORM))
    page.goto(site.url)
    site.connected()
    typed = {"name": "Ada", "note": "two\nlines", "off": "no", "pw": "secret1", "shown_password": "secret2"}
    for name, value in (typed | {"number": "4242", "count": "70"}).items():
        page.fill(f"[name={name}]", value)
    page.fill("[name=row] >> nth=1", "second")
    page.evaluate("document.querySelector('[name=unseen]').value = 'unseen'")
    page.select_option("select", "M")
    page.check("[name=gift]")
    page.check("[value=later]")
    page.focus("[name=name]")
    page.evaluate("scrollTo(0, 1234); document.querySelector('#box').scrollTop = 99")
    navigations = count_navigations(page)
    site.answers("/", document(FORM.replace("value=none", "value=new")))
    site.tell("reload", reason="api is ready")
    site.connected()
    page.wait_for_function("scrollY === 1234")
    values = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('[name]')].map(f => [f.name, f.value]))"
    )
    assert values == {
        "name": "Ada", "coupon": "new", "note": "two\nlines", "size": "M", "gift": "on", "count": "70",
        "pay": "later", "row": "second", "off": "", "pw": "", "shown_password": "", "number": "", "csrf": "a",
        "unseen": "",
    }  # fmt: skip
    assert page.is_checked("[name=gift]")
    assert page.is_checked("[value=later]")
    assert page.evaluate("document.querySelector('#box').scrollTop") == 99
    assert page.evaluate("document.activeElement.name") == "name"
    heard = page.evaluate("heard")
    assert ["input", "note"] in heard
    assert not [name for kind, name in heard if kind == "change"]
    stored = page.evaluate("stored")
    assert "Ada" in stored
    assert not [each for each in ("no", "secret1", "secret2", "4242", "unseen") if f'"{each}"' in stored]
    # It was for this reload alone.
    page.reload()
    site.connected()
    assert page.input_value("[name=name]") == ""
    assert len(navigations) == 2


def test_what_was_typed_survives_a_page_that_failed_meanwhile(site: Site, page: Page) -> None:
    """A server that answers 500 until the error is mended is ready: its page comes in between."""
    site.answers("/", document(FORM))
    page.goto(site.url)
    site.connected()
    page.fill("[name=name]", "Ada")
    for body, tag in (("<input name=name>", ' data-status="500"'), (FORM, "")):
        site.answers("/", document(body, tag=tag))
        site.tell("reload", reason="api is ready")
        site.connected()
    page.wait_for_selector("textarea")
    assert page.input_value("[name=name]") == "Ada"


def test_a_second_reload_before_the_page_is_there_loses_nothing(site: Site, page: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/held.js", hold)
    site.answers("/", document(FORM))
    page.goto(site.url)
    site.connected()
    page.fill("[name=name]", "Ada")
    site.answers("/", document(FORM + "<script src=/held.js></script>"))
    site.tell("reload", reason="api is ready")
    site.connected()
    until(page, lambda: len(held) == 1)
    site.answers("/", document(FORM))
    site.tell("reload", reason="api is ready")
    site.connected()
    page.wait_for_function("document.querySelector('[name=name]').value === 'Ada'")


def test_a_field_that_has_changed_is_left_alone(site: Site, page: Page) -> None:
    first = "<input name=a><input name=b><input name=c><select name=d><option>1<option>2</select>"
    site.answers("/", document(first + "<input name=e value=old>"))
    page.goto(site.url)
    site.connected()
    for name in "abc":
        page.fill(f"[name={name}]", "typed")
    page.select_option("select", "2")
    page.focus("[name=e]")
    own = "<script>document.querySelector('[name=b]').value = 'own'</script>"
    later = f"<input name=a type=number><input name=b>{own}<select name=d><option>1<option>3</select>"
    site.answers("/", document(later + "<input name=e value=new>"))
    site.tell("reload", reason="api is ready")
    site.connected()
    page.wait_for_load_state()
    found = page.evaluate("[...document.querySelectorAll('[name]')].map(field => field.value)")
    assert found == ["", "own", "1", "new"]
    assert page.evaluate("document.activeElement.name") == "e"


def test_a_background_tab_reloads_when_it_is_looked_at(site: Site, page: Page) -> None:
    site.answers("/", document())
    page.goto(site.url)
    site.connected()
    show = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    show += "document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(show, arg=True)
    for _ in range(3):
        site.tell("reload", reason="api is ready")
    assert site.is_quiet(0.3)
    page.evaluate(show, arg=False)
    site.connected()
    assert site.asked == ["GET /", "GET /"]


def test_the_answer_to_a_form_only_says_that_it_is_old(site: Site, page: Page) -> None:
    site.answers("/", document("<form method=post action=/done><button>Send</button></form>"))
    site.answers("/done", document("done", tag=' data-method="POST"'), **STRICT)
    page.goto(site.url)
    site.connected()
    page.click("button")
    site.connected()
    for _ in range(2):
        site.tell("reload", reason="api is ready")
    bar = page.locator("orchestra-bar [role=status]")
    bar.wait_for()
    assert "older than the code" in bar.inner_text()
    page.get_by_label("Close").click()
    assert page.locator("orchestra-bar").count() == 0
    site.tell("reload", reason="api is ready")
    bar.get_by_text("Reload", exact=True).click()
    site.connected()
    assert site.asked == ["GET /", "POST /done", "POST /done"]


def test_a_reload_that_is_prevented_leaves_the_page_marked_as_old(site: Site, page: Page) -> None:
    site.answers(
        "/",
        document("<button>touch</button><script>onbeforeunload = event => event.preventDefault()</script>"),
    )
    page.clock.install()
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.goto(site.url)
    site.connected()
    page.click("button")
    with page.expect_event("dialog"):
        site.tell("reload", reason="api is ready")
    page.clock.run_for(6000)
    page.wait_for_selector("orchestra-bar")
    page.evaluate("onbeforeunload = null")
    site.answers("/", document())
    site.tell("reload", reason="api is ready")
    site.connected()


def test_a_lost_connection_comes_back_until_orchestra_has_ended(site: Site, page: Page) -> None:
    site.answers("/", document())
    page.goto(site.url)
    age = site.connected()["age"]
    for _ in range(2):
        site.drop()
        said = site.connected()
        assert said["age"] > age
        age = said["age"]
    assert site.asked == ["GET /"]
    site.tell("ended")
    page.evaluate("dispatchEvent(new Event('online')); document.dispatchEvent(new Event('visibilitychange'))")
    assert site.is_quiet(1.0)
    assert site.connections == 0


def test_a_page_that_is_never_admitted_gives_up(site: Site, page: Page) -> None:
    tried: list[str] = []

    def refuse(live: WebSocketRoute) -> None:
        tried.append(live.url)
        live.close()

    site.answers("/", document())
    page.clock.install()
    page.route_web_socket("**/live", refuse)
    page.goto(site.url)
    for _ in range(12):
        page.clock.run_for(6000)
        page.wait_for_timeout(30)
    assert len(tried) == 5


def test_a_page_that_may_not_connect_is_quiet(site: Site, page: Page) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    site.answers("/", document(), Content_Security_Policy="connect-src 'none'")
    with page.expect_console_message(lambda message: "[orchestra]" in message.text):
        page.goto(site.url)
    count = len(said)
    assert site.is_quiet(1.0)
    assert len(said) == count


@pytest.mark.parametrize("cache", ["back-forward", "http"])
def test_a_page_of_the_back_button_is_as_old_as_it_is(site: Site, page: Page, cache: str) -> None:
    # A page that listens for "unload" is never in the back-forward cache, only in that of HTTP.
    body = "<script>addEventListener('unload', () => {})</script>" if cache == "http" else ""
    site.answers("/", document(body))
    site.answers("/next", document())
    page.goto(site.url)
    site.connected()
    page.evaluate("window.isSame = true")
    page.goto(site.url + "/next")
    site.connected()
    assert site.connections == 1
    page.wait_for_timeout(1000)
    page.evaluate("setTimeout(() => history.back())")  # its own context ends with it
    said = site.connected()
    assert said["path"] == "/"
    assert said["age"] >= 1000
    assert page.evaluate("window.isSame === true") == (cache == "back-forward")
    assert site.asked == ["GET /", "GET /next"]


def test_a_changed_stylesheet_is_swapped_without_a_flash(site: Site, page: Page) -> None:
    def paint(color: int) -> None:
        site.answers(
            "/part.css", f"body {{ background: rgb({color}, 0, 0) }}", "text/css", Cache_Control="max-age=999"
        )
        site.answers("/a.css", f"html {{ --a: {color} }}", "text/css", Cache_Control="max-age=999")

    site.answers("/all.css", "@import 'part.css';", "text/css", Cache_Control="max-age=999")
    head = "".join(f'<link rel=stylesheet href="/{name}.css">' for name in ("all", "a"))
    paint(1)
    site.answers(
        "/",
        document(head=head + '<link rel=stylesheet href="http://127.0.0.2:1/part.css">'),
    )
    page.goto(site.url)
    site.connected()
    assert page.evaluate(BACKGROUND) == "rgb(1, 0, 0)"
    page.evaluate(
        "window.seen = new Set(); window.isSame = true; const look = () => {"
        f" seen.add({BACKGROUND}); requestAnimationFrame(look) }}; look()"
    )
    site.asked.clear()
    paint(2)
    for _ in range(2):
        site.tell("styles", names=["part.css"])
    until(page, lambda: site.asked.count("GET /all.css") == 4)
    page.wait_for_function(
        f"{BACKGROUND} === 'rgb(2, 0, 0)' && document.querySelectorAll('link').length === 3"
    )
    assert "GET /a.css" not in site.asked
    assert set(page.evaluate("[...seen]")) == {"rgb(1, 0, 0)", "rgb(2, 0, 0)"}
    colors = f"[{BACKGROUND}, getComputedStyle(document.documentElement).getPropertyValue('--a')]"
    for color in (3, 4):
        paint(color)
        site.tell("styles", names=["other.css"])
        is_swapped = f"{colors}.join() === 'rgb({color}, 0, 0),{color}'"
        page.wait_for_function(f"{is_swapped} && document.querySelectorAll('link').length === 3")
    assert page.evaluate("isSame")
    # The next load has it from the cache, where it was under its own name.
    page.reload()
    site.connected()
    assert page.evaluate(colors) == ["rgb(4, 0, 0)", "4"]


def test_the_server_s_log_is_in_the_console(site: Site, page: Page) -> None:
    site.answers("/", document())
    # Else Playwright begins to listen only after the first message may have come.
    page.on("console", lambda _: None)
    page.goto(site.url)
    site.connected()
    for level, kind in (("error", "error"), ("warning", "warning"), ("info", "info")):
        with page.expect_console_message(lambda message: "<b>" in message.text) as caught:
            site.tell("log", process="api", level=level, text="100%d <b>")
        assert caught.value.type == kind
        assert caught.value.text == "[%s] %s api 100%d <b>"


def test_an_error_is_shown_until_it_is_cleared(site: Site, page: Page) -> None:
    site.answers("/", document("<p>page</p>"), **STRICT)
    violations: list[str] = []
    page.on(
        "console", lambda message: violations.append(message.text) if "Security" in message.text else None
    )
    site.greeting = [LOCAL, {"type": "error.shown", **ERROR}]
    page.goto(site.url)
    site.connected()
    page.wait_for_selector("orchestra-overlay [role=dialog]")
    text = overlay_text(page)
    assert "api has failed: exit code 1\n" in text
    for part in (
        "KeyError",
        "<b>'wholesale'</b>",
        "backend/rules.py:128",
        "RULES[group]",
        "1 call in starlette",
    ):
        assert part in text, text
    assert "site-packages" not in text
    page.get_by_text("1 call in starlette").click()
    assert "site-packages" in overlay_text(page)
    # Its style needs no permission of the page's.
    assert page.evaluate("getComputedStyle(document.querySelector('orchestra-overlay')).position") == "fixed"
    site.tell(
        "error.shown", **ERROR | {"process": "worker", "error_type": "exit code 3", "exit": "exit code 3"}
    )
    page.get_by_text("2 processes have an error").wait_for()
    assert "worker has failed\n\nexit code 3\n" in overlay_text(page)
    site.tell("cleared", process="worker")
    # A server that lives, but whose new program cannot be imported.
    site.tell("error.shown", **ERROR | {"exit": ""})
    page.get_by_text("api has an error").wait_for()
    site.tell("cleared", process="api")
    page.wait_for_selector("orchestra-overlay", state="detached")
    # One that was mended while the connection was lost does not stay.
    site.tell("error.shown", **ERROR)
    page.wait_for_selector("orchestra-overlay [role=dialog]")
    site.greeting = [LOCAL]
    site.drop()
    site.connected()
    page.wait_for_selector("orchestra-overlay", state="detached")
    assert not violations


def test_an_error_of_another_address_is_not_shown(site: Site, page: Page) -> None:
    """A single-page application has other addresses than the one that it was loaded from."""
    site.answers("/", document("<p>page</p>"))
    page.goto(site.url)
    site.connected()
    page.evaluate("history.pushState(null, '', '/settings')")
    site.tell("error.shown", **ERROR, at="/settings")
    page.wait_for_selector("orchestra-overlay [role=dialog]")
    site.tell("cleared", process=ERROR["process"])
    page.wait_for_selector("orchestra-overlay", state="detached")
    site.tell("error.shown", **ERROR, at="/")
    site.tell("error.shown", **ERROR | {"process": "worker"})
    page.wait_for_selector("orchestra-overlay [role=dialog]")
    assert "worker has failed" in overlay_text(page)
    assert "2 processes" not in overlay_text(page)


def test_a_closed_overlay_comes_back_with_a_different_error(site: Site, page: Page) -> None:
    site.answers("/", document("<input>"))
    site.greeting = [LOCAL, {"type": "error.shown", **ERROR}]
    page.goto(site.url)
    site.connected()
    page.wait_for_selector("orchestra-overlay [role=dialog]")
    page.keyboard.press("Escape")
    page.wait_for_selector("orchestra-overlay", state="detached")
    page.reload()
    site.connected()
    site.tell("error.shown", **ERROR)
    page.wait_for_timeout(200)
    assert page.locator("orchestra-overlay").count() == 0
    site.tell("error.shown", **ERROR | {"line": 129})
    page.wait_for_selector("orchestra-overlay [role=dialog]")
    page.get_by_label("Close").click()
    # The same once more, after it had been mended.
    site.tell("cleared", process="api")
    site.tell("error.shown", **ERROR | {"line": 129})
    page.wait_for_selector("orchestra-overlay [role=dialog]")


def test_the_overlay_is_used_by_keyboard(site: Site, page: Page) -> None:
    site.answers("/", document("<input><button>page's</button>"))
    page.set_viewport_size({"width": 320, "height": 600})
    page.goto(site.url)
    site.connected()
    page.focus("input")
    site.tell("error.shown", **ERROR | {"message": "x" * 500})
    page.wait_for_selector("orchestra-overlay [role=dialog]")
    assert page.locator("orchestra-overlay .errors").evaluate("box => box.scrollWidth") <= 320
    active = "document.querySelector('orchestra-overlay').shadowRoot.activeElement?.textContent"
    stops = []
    for _ in range(12):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(active))
    assert None not in stops
    assert stops[0] in stops[1:]
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(active) == stops[-2]
    page.locator("orchestra-overlay .place").first.focus()
    page.keyboard.press("Enter")
    page.get_by_text("No editor was found; set [reload] editor.").wait_for()
    assert site.opened == [{"token": "the-token", "file": ERROR["file"], "line": 128}]
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.localName") == "input"


def test_vite_s_overlay_stays_in_front(site: Site, page: Page) -> None:
    vite = (
        "<vite-error-overlay style='position: fixed; inset: 0; z-index: 99999'></vite-error-overlay>"
        "<script>addEventListener('keydown', event => {"
        " if (event.code === 'Escape') document.querySelector('vite-error-overlay')?.remove() })</script>"
    )
    site.answers("/", document(vite))
    site.greeting = [LOCAL, {"type": "error.shown", **ERROR}]
    page.goto(site.url)
    site.connected()
    page.wait_for_selector("orchestra-overlay [role=dialog]")
    in_front = "document.elementFromPoint(innerWidth / 2, innerHeight / 3).localName"
    assert page.evaluate(in_front) == "vite-error-overlay"
    page.keyboard.press("Escape")
    assert page.evaluate(in_front) == "orchestra-overlay"
    page.keyboard.press("Escape")
    page.wait_for_selector("orchestra-overlay", state="detached")


def test_a_frame_leaves_errors_to_its_page(site: Site, page: Page) -> None:
    site.greeting = [LOCAL, {"type": "error.shown", **ERROR}]
    site.answers("/", document("<iframe src=/inner></iframe>"))
    site.answers("/inner", document("inner"))
    page.goto(site.url)
    paths = {site.connected()["path"] for _ in range(2)}
    assert paths == {"/", "/inner"}
    page.wait_for_selector("orchestra-overlay [role=dialog]")
    page.wait_for_timeout(200)
    assert page.frames[1].locator("orchestra-overlay").count() == 0
