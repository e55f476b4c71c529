"""How the demo talks: progress while it works, a table at the end."""

import sys
import time


class Steps:
    def __init__(self, out=sys.stdout):
        self.out = out
        self.tty = out.isatty()
        self.begin = time.monotonic()
        self.failures = []

    def _say(self, mark, text):
        print("%6.1fs %s %s" % (time.monotonic() - self.begin, mark, text), file=self.out, flush=True)

    def title(self, text):
        print(("\n\033[1m%s\033[0m" if self.tty else "\n%s") % text, file=self.out, flush=True)

    def note(self, text):
        self._say(" ", text)

    def check(self, ok, text, detail=""):
        """A claim of the demo: it holds or the demo has failed."""
        self._say("ok" if ok else "NO", text + (": " + detail if detail else ""))
        if not ok:
            self.failures.append(text + (": " + detail if detail else ""))
        return ok

    def table(self, head, rows):
        rows = [[str(c) for c in r] for r in rows]
        widths = [max([len(h)] + [len(r[i]) for r in rows]) for i, h in enumerate(head)]
        for r in [head] + rows:
            print("  " + "  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip(), file=self.out)
        self.out.flush()
