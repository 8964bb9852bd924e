"""Which submissions resemble each other: `python assignments/similarity.py handed-in`.

Winnowing (Schleimer, Wilkerson and Aiken 2003) over the tokens of code cells, names replaced. What
the students' copy contains, and what many submissions share, does not count.
"""

import argparse
import csv
import io
import keyword
import sys
import tokenize
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from grade import COURSE, Ended, Limits, find_notebooks, plain, read_notebook, read_tests  # noqa: E402

GRAM, WINDOW = 12, 6  # tokens; every common passage of GRAM + WINDOW - 1 tokens is found
LAYOUT = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER", "ENCODING"}
HEADER = ["assignment", "first", "second", "similarity", "shared"]


def tokens_of(source: str) -> list[str]:
    """The tokens of a cell: names are `n`, strings `s`; without comments and layout.

    A cell that Python cannot read gives the tokens before the error."""
    result = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            kind = tokenize.tok_name[token.type]
            if kind == "NAME" and not keyword.iskeyword(token.string):
                result.append("n")
            elif kind not in LAYOUT:
                result.append("s" if "STRING" in kind else token.string)
    except (tokenize.TokenError, SyntaxError):
        pass
    return result


def grams_of(cell: str) -> list[int]:
    """The hash of every GRAM tokens in a row."""
    tokens = tokens_of(cell)
    grams = (" ".join(tokens[at : at + GRAM]) for at in range(len(tokens) - GRAM + 1))
    return [zlib.crc32(gram.encode(errors="replace")) for gram in grams]


def winnow(grams: list[int]) -> set[int]:
    """The smallest hash of every WINDOW hashes in a row: the fingerprints of a cell."""
    windows = max(len(grams) - WINDOW + 1, min(len(grams), 1))
    return {min(grams[at : at + WINDOW]) for at in range(windows)}


def fingerprints_of(cells: Iterable[str], starter: Iterable[str]) -> set[int]:
    """The fingerprints of code cells, without any that the starter's cells could have."""
    given = {gram for cell in starter for gram in grams_of(cell)}
    return {gram for cell in cells for gram in winnow(grams_of(cell))} - given


def compare(fingerprints: dict[str, set[int]], common: int) -> list[tuple[str, str, float, int]]:
    """(first, second, similarity, shared fingerprints) of every pair, the most similar first.

    Similarity is the part of the smaller submission that the other one shares, 0 to 1.
    Fingerprints of more than `common` submissions do not count."""
    counts = Counter(gram for grams in fingerprints.values() for gram in grams)
    own = {
        name: {gram for gram in grams if counts[gram] <= common}
        for name, grams in fingerprints.items()
    }
    pairs = []
    for first, second in combinations(sorted(own), 2):
        shared = len(own[first] & own[second])
        smaller = min(len(own[first]), len(own[second]))
        pairs.append((first, second, shared / max(smaller, 1), shared))
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3], pair[:2]))


def code_of(path: Path) -> tuple[str, list[str]]:
    """The assignment of a notebook and its code cells. Raises Ended if it cannot be read."""
    notebook = read_notebook(path, Limits())
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return notebook["assignment"], cells


def report(folder: Path, course: Path, common: int) -> list[list]:
    """A row for every pair of submissions to the same assignment, in the columns of HEADER."""
    groups, starters = defaultdict(dict), {}
    for path in find_notebooks(folder):
        name = plain(str(path.relative_to(folder)))
        try:
            assignment, cells = code_of(path)
            if assignment not in starters:
                read_tests(course, assignment)  # refuses what is not of the course
                copy = course / assignment / "student" / f"{assignment}.ipynb"
                starters[assignment] = code_of(copy)[1]
        except Ended as ended:
            print(f"{name}: left out, {ended.args[0]}: {ended.args[1]}", file=sys.stderr)
            continue
        groups[assignment][name] = fingerprints_of(cells, starters[assignment])
    return [
        [assignment, first, second, f"{similarity:.2f}", shared]
        for assignment in sorted(groups)
        for first, second, similarity, shared in compare(groups[assignment], common)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="notebooks, at any depth")
    parser.add_argument("--course", type=Path, default=COURSE, help="the output of `make course`")
    parser.add_argument("--out", type=Path, help="default: grades/similarity.csv in the course")
    parser.add_argument(
        "--common", type=int, default=10, help="fingerprints of more submissions do not count"
    )
    options = parser.parse_args()
    rows = report(options.folder, options.course, options.common)
    if not rows:
        sys.exit(
            f"ERROR: {options.folder} contains no two submissions to the same assignment; "
            "name a folder that does"
        )
    out = options.out or options.course / "grades" / "similarity.csv"
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    for row in rows[:10]:
        print(*row, sep="  ")
    print(f"Wrote {out}")


if __name__ == "__main__":
    main()
