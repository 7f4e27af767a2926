"""What is measured: medians with their spread, processor time and memory of a tree of processes, the facts of a machine."""

import os
import platform
import re
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def processes_of(root):
    """`root` and everything below it, as process ids."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(entry)):
            parents.setdefault(int(fields[1]), []).append(int(entry))
    tree, new = [], [root]
    while new:
        tree += new
        new = [child for process in new for child in parents.get(process, [])]
    return tree


def processor_seconds(root):
    """Processor time of a tree of processes; what has ended counts with the parent that waited for it."""
    total = 0
    for process in processes_of(root):
        if fields := _stat(process):
            total += sum(int(ticks) for ticks in fields[11:15])
    return total / TICK


def memory(root):
    """Memory of a tree of processes in bytes; what several share counts once (PSS)."""
    total = 0
    for process in processes_of(root):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(re.search(r"^Pss:\s+(\d+)", lines, re.M).group(1)) * 1024
    return total


def _stat(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


@dataclass
class Side:
    """One side's runs: the figure of each, and processor time for each message in microseconds."""

    figures: list = field(default_factory=list)
    costs: list = field(default_factory=list)

    def add(self, figure, cost=None):
        self.figures.append(figure)
        if cost is not None:
            self.costs.append(cost)

    @property
    def median(self):
        return statistics.median(self.figures)

    def text(self):
        """Median and range."""
        if not self.figures:
            return "-"
        low, high = (number(edge(self.figures)) for edge in (min, max))
        return number(self.median) if low == high else f"{number(self.median)} ({low} to {high})"

    def cost(self):
        return f"{statistics.median(self.costs):.0f}" if self.costs else "-"


def number(value):
    """Four digits are more than any of these is worth."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass
class Row:
    """A line of the table: a scenario, what both sides made of it, and what was asked for."""

    scenario: str
    unit: str
    ours: Side
    peer: Side | None = None
    floor: float | None = None
    goal: float | None = None
    #: Less is better, and `floor` and `goal` are bounds on our own figure, not ratios.
    is_bound: bool = False

    @property
    def ratio(self):
        if self.is_bound:
            return self.ours.median
        return self.ours.median / self.peer.median if self.peer and self.peer.figures else None

    def verdict(self):
        if self.ratio is None or self.floor is None:
            return ""
        good = (lambda asked: self.ratio <= asked) if self.is_bound else (lambda asked: self.ratio >= asked)
        if self.goal is not None and good(self.goal):
            return "goal"
        return "floor" if good(self.floor) else "**below**"

    def raw(self):
        """Every run of both sides."""
        sides = {"ours": self.ours, "peer": self.peer or Side()}
        return {name: {"figures": side.figures, "costs": side.costs} for name, side in sides.items()}

    def cells(self):
        ratio = "-" if self.is_bound or self.ratio is None else f"{self.ratio:.2f}"
        asked = "-" if self.floor is None else f"{self.floor:g}" + (f" / {self.goal:g}" if self.goal is not None else "")
        peer = self.peer or Side()
        return [
            f"{self.scenario}, {self.unit}",
            self.ours.text(),
            peer.text(),
            ratio,
            asked,
            self.verdict(),
            self.ours.cost(),
            peer.cost(),
        ]


HEAD = ["Scenario", "Postern", "Peer", "Ratio", "Floor / goal", "Reached", "CPU µs", "Peer's CPU µs"]


def table(rows):
    """Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def machine(folder, binaries):
    """One line for each fact without which figures are none."""

    def said(*command):
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else "?"

    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kept = said("findmnt", "-n", "-o", "FSTYPE,OPTIONS", "-T", str(folder))
    commit = said("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")
    return [
        f"{os.cpu_count()} processors ({processor.group(1) if processor else platform.machine()}), {gibibytes:.0f} GiB,"
        f" Linux {platform.release()}, disk: {kept}",
        f"commit {commit}, binaries of {binaries}, {said('date', '-u', '+%F %H:%M UTC')},"
        f" load average at the start {os.getloadavg()[0]:.2f}",
    ]
