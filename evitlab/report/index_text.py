"""`results/README.md`: which folders there are, and what the columns of `evitlab.load` mean."""

from collections.abc import Mapping
from pathlib import Path

from evitlab.report.columns import COLUMNS
from evitlab.report.folders import Folder, list_folders
from evitlab.store import write_atomically

INDEX = "README.md"
INTRODUCTION = """# Results

Written by `evitlab report`; what stands here is generated. Each folder holds `records.jsonl`, one line a measurement
with all its conditions; tables, figures and pages are made from it. `peaks` holds what the machines can do at most.

```python
import evitlab

table = evitlab.load()  # or evitlab.load("results/mhsa_ratio"): a pandas DataFrame, one row a variant
```

`evitlab show` lists these folders, and `evitlab show FOLDER` prints the table of one.
"""
READING = """Shares are 0..1 and everything is in base units; names are timm's where timm has one. The source of a
column is the task whose measurement it comes from, or the part of a record. Columns that a folder has nothing for are
empty. Rows of different folders may come from different machines: compare speeds within one, by `machine` and `study`.
"""


def write_index_text(results: Path) -> Path:
    """Write the file into the folder of results, in one step; return its path."""
    write_atomically(results / INDEX, render_index_text(results))
    return results / INDEX


def render_index_text(results: Path) -> str:
    """The file's text: folders with question and links, then the dictionary of columns."""
    from evitlab.report.comparison.paper import COLUMNS as PAPER_COLUMNS  # late: pandas, which listing does not need
    from evitlab.report.rows.comparison import DIFFERENCES

    parts = [
        INTRODUCTION,
        "## Folders\n",
        _render_folders(list_folders(results)),
        "## Columns of `evitlab.load`\n",
        READING,
        _render_columns(COLUMNS, "source"),
        '## Columns of `evitlab.compare(table, to="paper")`\n',
        _render_columns({"study": DIFFERENCES["study"]} | PAPER_COLUMNS),
        "## Columns of `evitlab.compare(table, to=VARIANT)`\n",
        _render_columns(DIFFERENCES),
    ]
    return "\n".join(parts)


def _render_folders(folders: list[Folder]) -> str:
    rows = ["| folder | question | variants | measured |", "|---|---|---:|---|"]
    for folder in folders:
        files = {"page": folder.page, "table": folder.table}
        links = "".join(f", [{word}]({folder.name}/{file})" for word, file in files.items() if file is not None)
        cells = (
            f"[{folder.name}]({folder.name}){links}",
            folder.question,
            str(folder.variants),
            ", ".join(folder.tasks),
        )
        rows.append(f"| {' | '.join(_escape(cell) for cell in cells)} |")
    return "".join(f"{row}\n" for row in rows)


def _render_columns(columns: Mapping[str, tuple[str, ...]], *more: str) -> str:
    headings = ("column", "unit", "meaning", *more)
    rows = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    rows += [f"| `{name}` | {' | '.join(_escape(cell) for cell in about)} |" for name, about in columns.items()]
    return "".join(f"{row}\n" for row in rows)


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
