"""Commands that look at a run: show, report, inspect, advise."""

from pathlib import Path

import click

from dsrg.commands.group import main
from dsrg.errors import InputError


@main.command()
@click.argument("image_id")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG to write.")
def show(image_id: str, out: Path) -> None:
    """Draw one image's whole way, from activation maps to prediction, into a PNG."""
    from dsrg.figures.journey import draw_journey
    from dsrg.project import load_project

    draw_journey(image_id, out, load_project())
    click.echo(str(out))


@main.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="HTML file to write.")
def report(out: Path) -> None:
    """Copy results/report.html, the page of the last run, and add how long each stage took.

    The page itself has no times, so that the same params give the same files.
    """
    from dsrg.figures.report import with_times
    from dsrg.files import read_text, write_text
    from dsrg.project import load_project
    from dsrg.stage import read_seconds

    page = load_project().paths.report
    if not page.is_file():
        raise InputError(f"{page}: not made yet; run `dvc repro evaluate`")
    write_text(out, with_times(read_text(page), read_seconds()))
    click.echo(str(out))


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 = any free one.")
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser.")
@click.option("--rev", help="Another run to show beside: a DVC experiment, a commit, a branch or a tag.")
@click.option("--edit", is_flag=True, help="Let points and strokes be set, in the table of data.points.")
def inspect(port: int, browser: bool, rev: str | None, edit: bool) -> None:
    """Look at seeds, growth and results of every image in a browser, and try other thresholds.

    The page is served from here to this machine alone, reads what the stages have made and writes nothing, but for
    points with --edit, and then for those alone who have the address with its token. From another machine: `ssh -L
    8765:127.0.0.1:8765 THIS_ONE`. End it with Ctrl-C.
    """
    import tempfile
    import webbrowser

    from dsrg.inspect.revision import run_at
    from dsrg.inspect.run import Run
    from dsrg.inspect.server import open_browser, serve
    from dsrg.project import load_project

    project = load_project()
    run = Run(project)

    with tempfile.TemporaryDirectory(prefix="dsrg-inspect-") as folder:

        def ready(address: str) -> None:
            click.echo(address)
            if browser and edit:
                open_browser(address, Path(folder))
            elif browser:
                webbrowser.open(address)

        other = run_at(rev, Path(folder), project) if rev else None
        serve(run, port=port, ready=ready, other=other, edit=edit)


@main.command()
@click.option("--images", type=click.IntRange(2), default=200, show_default=True, help="Training images, drawn.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/advise"), show_default=True)
def advise(images: int, out: Path) -> None:
    """Advise seeds.fg_thresh and seeds.bg_thresh where there are no masks, by tags and images alone.

    Runs after the stage make_seeds: makes seeds at every twentieth of both thresholds, writes OUT/advice.png and
    OUT/advice.json, and names a range with its reason.
    """
    from dsrg.advise.figure import draw_advice
    from dsrg.advise.sweep import Sweep, findings, summary_lines, sweep_thresholds
    from dsrg.files import write_json
    from dsrg.project import load_project

    project = load_project()
    sweep = Sweep(project.params.seeds)
    for _ in sweep_thresholds(sweep, project, images=images):
        pass
    found = findings(sweep, project.params)
    write_json(out / "advice.json", found)
    draw_advice(out / "advice.png", found)
    click.echo("\n".join([*summary_lines(found), f"{out / 'advice.png'}, {out / 'advice.json'}"]))
