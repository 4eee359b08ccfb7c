"""The model card describes the model that is in selfalign/assets/tiny."""

import re

from selfalign.model.checkpoint import load_policy, shipped_model_dir
from tests.docs import figures

CARD = figures.CARD.read_text(encoding="utf-8")
RUN = "run: python -m tests.docs.figures"
# A row of results: what was never seen may be worded otherwise; command and figures may not.
ROW = re.compile(r"\| (`make demo ARGS=[^|]+`) \| ([^|]+) \| ([^|]+) \|")


def results(document: str) -> dict[str, list[str]]:
    """Command to success of base and aligned W, without emphasis."""
    return {
        command: [cell.replace("*", "").strip() for cell in cells]
        for command, *cells in ROW.findall(document)
    }


def test_its_identity_and_sizes_are_those_of_the_files() -> None:
    assert figures.with_parts(CARD, {"shipped": figures.shipped_table()}) == CARD, RUN


def test_its_results_are_those_of_the_readme() -> None:
    readme = results((figures.ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(readme) >= 3
    assert results(CARD) == readme, "copy the rows of the README into the card"


def test_the_short_card_beside_the_files_counts_right() -> None:
    text = (shipped_model_dir() / "MODEL_CARD.md").read_text(encoding="utf-8")
    counts = load_policy(shipped_model_dir()).num_parameters()
    assert f"{sum(counts.values()) / 1e6:.1f} million parameters" in text
    assert f"W of {counts['w']:,} numbers" in text


def test_a_foreign_number_is_noticed() -> None:
    wrong = CARD.replace("| parameters | ", "| parameters | 1")
    assert figures.with_parts(wrong, {"shipped": figures.shipped_table()}) == CARD
