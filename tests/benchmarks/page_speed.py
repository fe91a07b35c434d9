"""How long a page of many variants takes to open and to sort in a browser.

    python tests/benchmarks/page_speed.py [--variants 2000] [--repeats 5]

Opening lasts from the navigation to the end of the page's script and the next frame; sorting from the click on a
header to the next frame, layout and painting included. Beside them stands the processor time of the page's main thread,
which other work on the machine disturbs less.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_records import make_macs, make_record, make_throughput, make_training, requests

from evitlab.report.html import render_page
from evitlab.report.markup import Page
from evitlab.report.tables import select_records, study_table

NEXT_FRAME = "new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0)))"


def write_page(path: Path, variants: int) -> None:
    """A study of three tasks with that many variants, in the same sizes as real ones."""
    records = []
    for number in range(variants):
        name, knobs = f"qk_dim={number}, ffn_ratio={number % 7}", {"qk_dim": number, "ffn_ratio": number % 7}
        timing = replace(make_throughput(), images_per_second=1.0 + number * 7919 % 4001)
        tasks = {"macs": make_macs(), "throughput": timing, "train": make_training(0.2 + number / variants / 2)}
        records += [make_record(task, each, variant=name, knobs=knobs) for task, each in tasks.items()]
    selection = {"study": "mhsa_ratio", "requests": requests(records)}
    page = Page(study="many", question="How fast is this page?", source="-", expect="-", cost="-")
    table = study_table(records, **selection)
    path.write_text(render_page(page, table=table, pictures=(), records=select_records(records, **selection)))


def time_page(tab: Tab, path: Path) -> tuple[float, float, float, float]:
    """Milliseconds of opening and of sorting once, then processor milliseconds of both."""
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(each["value"] for each in metrics if each["name"] == "TaskDuration")

    tab.goto(path.as_uri())
    opened = tab.evaluate(NEXT_FRAME)  # performance.now() counts from the start of the navigation
    opening = spent()
    sort = (
        "(() => { const start = performance.now(); document.querySelectorAll('button.sort')[3].click(); return start })"
    )
    sorted_in = tab.evaluate(f"async () => {{ const start = {sort}(); return await {NEXT_FRAME} - start }}")
    return opened, sorted_in, opening, spent() - opening


def main() -> None:
    """Print size and times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "report.html"
        write_page(path, asked.variants)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        times = []
        for _ in range(asked.repeats):
            context = browser.new_context()
            times.append(time_page(context.new_page(), path))
            context.close()
        browser.close()
        opened, sorted_in, opening, sorting = ([each[i] for each in times] for i in range(4))
        print(f"{asked.variants} variants, {path.stat().st_size / 1e6:.1f} MB")
        print(f"opened in {median(opened):.0f} ms ({min(opened):.0f}-{max(opened):.0f}, n={asked.repeats})")
        print(f"sorted in {median(sorted_in):.0f} ms ({min(sorted_in):.0f}-{max(sorted_in):.0f})")
        print(f"processor time of the main thread: {median(opening):.0f} ms and {median(sorting):.0f} ms")


if __name__ == "__main__":
    main()
