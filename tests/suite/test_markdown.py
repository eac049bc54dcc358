"""The tables that pages and scripts write."""

from sublinattn.suite.markdown import markdown_table


def test_a_table_has_its_titles_a_rule_and_a_line_for_each_row() -> None:
    made = markdown_table(["a", ""], [("1", "|x|"), ["`b`", "3"]])
    assert made == "| a |  |\n|---|---|\n| 1 | \\|x\\| |\n| `b` | 3 |"
