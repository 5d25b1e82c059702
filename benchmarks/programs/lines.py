"""Write lines as fast as they are taken, then the seconds that took into a file.

python lines.py COUNT FILE
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

count, file = int(sys.argv[1]), Path(sys.argv[2])
text = "GET /api/items/1 200 in 12 ms: a line of ordinary length, as servers write it"
begun = time.perf_counter()
for number in range(0, count, 100):
    sys.stdout.write("".join(f"{number + at} {text} end\n" for at in range(100)))
sys.stdout.flush()
file.write_text(str(time.perf_counter() - begun))
