"""Fuzzers of everything in vmimg that reads what a stranger made.

``python -m fuzz`` fuzzes (`make fuzz` calls it), ``python -m fuzz.run NAME FILE`` repeats an input.
`harnesses` says what is fuzzed and with which steps, `seeds` where the first inputs come from,
`mutate` how inputs are changed so that they pass checksums, `engine` is what libFuzzer runs.
"""

import sys
from pathlib import Path

# The images to begin with, and the steps of the tests of malformed ones, are the tests'.
_TESTS = Path(__file__).parent.parent / "tests"
sys.path += [str(folder) for folder in (_TESTS, _TESTS / "formats")]
