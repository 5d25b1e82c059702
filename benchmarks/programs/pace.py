"""Write so many lines a second, for ever; with 0, none.

python pace.py LINES
"""

from __future__ import annotations

import sys
import time

rate, tick = int(sys.argv[1]), 0.05
print("begun", flush=True)
begun, told = time.monotonic(), 0
while True:
    time.sleep(tick)
    due = int((time.monotonic() - begun) * rate)
    for number in range(told, due):
        print(f"{number} GET /api/items/1 200 in 12 ms: a line of ordinary length, as servers write it")
    told = due
    sys.stdout.flush()
    if not rate:
        time.sleep(3600)
