"""The one table: what was measured, beside what it is held against and what is wanted of it."""

import statistics

from rig import say, spread

HEAD = ["what", "ceiling", "service", "ratio (median)", "spread", "target", "met"]


class Unmeasured(Exception):
    """Why a row cannot be measured here."""


class Target:
    """What is wanted of a value; without a bound, nothing is."""

    def __init__(self, sign, bound, unit=""):
        self.sign, self.bound, self.unit = sign, bound, unit

    def __str__(self):
        return f"{self.sign} {self.bound:g}{self.unit}"

    def met(self, value):
        return value >= self.bound if self.sign == "≥" else value <= self.bound


def at_least(bound, unit=""):
    return Target("≥", bound, unit)


def at_most(bound, unit=""):
    return Target("≤", bound, unit)


class Table:
    def __init__(self):
        self.rows = []
        self.notes = []
        self.whole = True

    def compare(self, what, ceilings, values, target=None, form="{:,.0f}", unit="/s"):
        """The service beside a ceiling, round by round: the median of the rounds' ratios is what counts."""
        ratios = [value / ceiling for ceiling, value in zip(ceilings, values)]
        ratio = statistics.median(ratios)
        ceiling, value = (form.format(statistics.median(side)) + unit for side in (ceilings, values))
        digits = "{:.3f}" if max(ratios) < 0.1 else "{:.2f}"
        self._add(what, ceiling, value, digits.format(ratio), spread(ratios, digits), target, ratio)

    def value(self, what, values, target=None, form="{:.2f}", unit=""):
        """What the service does by itself, in several rounds."""
        value = statistics.median(values)
        self._add(what, "", form.format(value) + unit, "", spread(values, form) + unit, target, value)

    def unmeasured(self, what, why, target=None):
        self._row([what, "", f"not measured: {why}", "", "", str(target or ""), "not measured"])

    def failed(self, what, why):
        self.whole = False
        self._row([what, "", f"**failed**: {why}", "", "", "", "**failed**"])

    def note(self, text):
        self.notes.append(text)
        say(text)

    def _add(self, what, ceiling, value, ratio, around, target, measured):
        verdict = "" if target is None else "met" if target.met(measured) else "**missed**"
        self._row([what, ceiling, value, ratio, around, str(target or ""), verdict])

    def _row(self, cells):
        self.rows.append([" ".join(cell.replace("|", "/").split()) for cell in cells])
        say("  ".join(cell for cell in cells if cell))

    def __str__(self):
        lines = ["| " + " | ".join(cells) + " |" for cells in (HEAD, ["---"] * len(HEAD), *self.rows)]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]).rstrip()
