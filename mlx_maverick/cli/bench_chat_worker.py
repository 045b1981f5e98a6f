"""A worker without a model, for measuring the chat: it answers with made-up Markdown, so many
tokens a second.

Knows nothing of who listens. Started as `python -m mlx_maverick.cli.bench_chat_worker RATE
TOKENS`; speaks `protocol`, and computes next to nothing.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator
from time import monotonic, sleep

from ..protocol import Cancel, Generate, Load, Outbox, lines, parse

PREFILL = 3  # steps
# One paragraph, list, table and piece of code after the other, as models write.
TEXT = """Memory bandwidth is what decides how fast a large model decodes: for each token, all \
weights that are used go through memory **once**. A model of 17 B active parameters at 4 bits \
reads about 9.6 GB per token, so `800 GB/s` allow at most 83 tokens per second.

1. Count the bytes that one token reads.
2. Divide the bandwidth by them.
3. Expect 50 to 70 % of that.

| chip | bandwidth | at most |
|---|---|---|
| M3 Ultra | 819 GB/s | 85 tok/s |
| M4 Max | 546 GB/s | 57 tok/s |

```python
def ceiling(bandwidth: float, active: float, bits: float) -> float:
    \"\"\"Tokens per second that memory allows.\"\"\"
    return bandwidth / (active * bits / 8)
```

"""


def tokens() -> Iterator[str]:
    """Pieces of about four characters, without end."""
    while True:
        for at in range(0, len(TEXT), 4):
            yield TEXT[at : at + 4]


def main(rate: float, count: int) -> None:
    out = Outbox(os.dup(1))
    cancelled = threading.Event()
    out.put("ready", version="bench")
    for line in lines(0):
        match parse(json.loads(line)):
            case Load(model=model):
                out.put("loading", done=0, total=1)
                out.put(
                    "loaded", name=model, parameters=402 * 10**9, nbytes=231 * 10**9,
                    context=1 << 20, vision=True, limit=250 * 10**9,
                )  # fmt: skip
                out.put("memory", active=231 * 10**9, cache=0, peak=0, kv=0, experts=None)
            case Generate() as request:
                cancelled.clear()
                threading.Thread(
                    target=answer, args=(out, request.id, rate, count, cancelled), daemon=True
                ).start()
            case Cancel():
                cancelled.set()
            case _:
                break
    out.close()


def answer(out: Outbox, id: int, rate: float, count: int, cancelled: threading.Event) -> None:
    """One reply, each token at its time; behind its time it does not wait."""
    for step in range(PREFILL + 1):
        out.put("prefill", id=id, done=step * 1000, total=PREFILL * 1000)
    begun = monotonic()
    done = 0
    for text in tokens():
        if done == count or cancelled.is_set():
            break
        done += 1
        if (wait := begun + done / rate - monotonic()) > 0:
            sleep(wait)
        out.put("token", id=id, text=text, ids=[done])
        if done % max(1, int(rate / 2)) == 0:
            out.put("memory", active=231 * 10**9, cache=0, peak=0, kv=done * 49152, experts=None)
    stats = {
        "prompt_tokens": PREFILL * 1000, "cached_tokens": 0, "new_tokens": done,
        "prefill_seconds": 1.0, "decode_seconds": monotonic() - begun, "peak_memory": 0,
        "experts": None,
    }  # fmt: skip
    reason = "cancelled" if cancelled.is_set() else "length"
    out.put("finished", id=id, reason=reason, stats=stats, problem=None)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
