"""Prints steps as they are done, as lines of one table that fits the terminal."""

import shutil
import textwrap
from dataclasses import dataclass

from atoll.testing.steps import StepDone

WIDTH_MIN, WIDTH_MAX = 80, 160
OUTCOME = "{outcome:<4} {took_s:6.2f} s  "
OUTCOME_WIDTH = 15
STEP_WIDTH_MAX = 62


@dataclass(slots=True)
class StepTable:
    """The table; its width is the terminal's, or `WIDTH_MAX` when there is none."""

    _begun: bool = False

    def tell(self, step: StepDone) -> None:
        """Print one step."""
        width = min(max(shutil.get_terminal_size((WIDTH_MAX, 24)).columns, WIDTH_MIN), WIDTH_MAX)
        step_width = min(STEP_WIDTH_MAX, (width - OUTCOME_WIDTH) // 2)
        if not self._begun:
            self._begun = True
            print(f"{'took':>{OUTCOME_WIDTH - 4}}    {'step':<{step_width}}  what was seen")
        head = OUTCOME.format(outcome="ok" if step.ok else "FAIL", took_s=step.took_s)
        left = _wrapped(step.what, step_width)
        right = _wrapped(step.detail, width - OUTCOME_WIDTH - step_width - 2)
        for number in range(max(len(left), len(right))):
            first = left[number] if number < len(left) else ""
            second = right[number] if number < len(right) else ""
            print(f"{head if number == 0 else '':<{OUTCOME_WIDTH}}{first:<{step_width}}  {second}".rstrip(), flush=True)


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]] or [""]
