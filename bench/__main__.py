"""The command: `python -m bench --help`."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def make_parser() -> argparse.ArgumentParser:
    "The options."
    parser = argparse.ArgumentParser("alberta-nb bench", description="Measure the loops against plain JAX and numba.")
    add = parser.add_argument
    add("--quick", action="store_true", help="small sizes and two rounds: a smoke test")
    add("--only", metavar="PARTS", help="parts to run, of a,b,c,d,e,f,g,h,i,j,k; all by default")
    add("--rows", default="", metavar="TEXT", help='only races whose names hold this, as "(a) LMS, d=20" does "d=20"')
    add("--repeats", type=int, metavar="N", help="rounds of each race (5; 2 with --quick)")
    add("--long", action="store_true", help="also the memory of a run of 10^8 steps (half a minute)")
    add("--library", action="store_true", help="measure the library alone, without its rivals")
    add("--output", metavar="DIR", help="write bench.json and bench.png there")
    add("--against", metavar="OTHER.json", help="print each row's new value over that of another bench.json")
    add("--package", metavar="DIR", help="measure the alberta_nb of another checkout")
    add(
        "--beside",
        metavar="DIR",
        help="race this alberta_nb against that of another checkout, in two processes by turns",
    )
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def choose_package(folder: str | None) -> None:
    "Which alberta_nb is measured: that of `folder`, or the first one of PYTHONPATH, before the one of this checkout."
    sys.path.insert(0, ROOT)
    importlib.import_module("bench")  # this one, also where another checkout has its own
    given = [folder] if folder else [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    others = [p for p in sys.path if p not in ("", ROOT, os.path.join(ROOT, "bench"), *given)]
    sys.path[:] = [*given, ROOT, *others]


def main(words: Sequence[str] | None = None) -> int:
    "Run the benchmark: print the table; 2 for bad arguments, else 0."
    args = make_parser().parse_args(words)
    choose_package(args.package)
    from bench import beside, report, races  # noqa: I001  after the choice of the package
    import bench.linear, bench.service, bench.td, bench.networks, bench.horde  # noqa: E401, F401  they register races

    only = None if args.only is None else args.only.replace(",", " ").split()
    settings = {"quick": args.quick, "repeats": args.repeats, "long": args.long}
    try:
        if args.worker:
            return beside.work(only, args.rows, races.Plan(args.quick, args.long))
        if args.beside:
            print(beside.race_beside(args.beside, only, args.rows, args.quick, args.repeats or 5))
            return 0
        frame = races.bench(only, rows=args.rows, library=args.library, **settings, progress=True)
        print(report.summary(frame, find_spec("numba") is not None, args.quick))
        if args.against is not None:
            print(report.compared(frame, args.against))
        if args.output is not None:
            report.write_bench(frame, args.output, **settings)
    except KeyboardInterrupt:
        print("alberta-nb bench: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"alberta-nb bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
