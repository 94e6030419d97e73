"""The figure of one burst: the sky, the world, the time line and the causes, as PNG or SVG.

Enters: a revision, its clusters, its time line. Leaves: the bytes of an image, the same for the same input. Only
`commands.py` loads this module, and only when a figure is wanted: matplotlib takes a second to load.
"""

import io
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import matplotlib
import numpy as np
from matplotlib import dates, font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.projections.geo import MollweideAxes

from collectors import mapping
from collectors.inventory import Cluster
from collectors.mapping import Map, Site, Timeline
from collectors.minutes import DAY_NS, MINUTE_NS
from collectors.notify import NOT_NAMED, WHAT, false_alarms
from collectors.revision import Revision

FONT = "DejaVu Sans"  # comes with matplotlib, so the figure doesn't depend on the machine's fonts
LABELS_MAX = 8
LABEL_CHARACTERS_MAX = 24
APART = (0.75, 0.16)  # labels nearer than this in radians across and up would cover each other
CUTOFFS_GV = (1, 2, 4, 8)
# Okabe and Ito's colours, which people with any colour vision tell apart
BLUE, SKY, ORANGE, RED, GREY = "#0072b2", "#9fd3f0", "#e69f00", "#d55e00", "#666666"
LAND, NIGHT = "#e4e0d8", "#20304a"
STYLE: dict[Any, Any] = {
    "font.family": FONT,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "text.parse_math": False,  # a cluster may be called $\alpha
    "svg.hashsalt": "flipwatch",  # else each SVG has other names for its parts
}
LAYOUT: dict[str, Any] = {
    "width_ratios": (1, 1.3),
    "height_ratios": (1.9, 1),
    "left": 0.07,
    "right": 0.97,
    "top": 0.88,
    "bottom": 0.065,
    "hspace": 0.25,
    "wspace": 0.1,
}
UNKNOWN: dict[str, Any] = {"facecolor": "none", "edgecolor": GREY, "hatch": "//", "lw": 0, "alpha": 0.5}


class Globe(MollweideAxes):
    """Equal areas. All our lines have close points, so none more are put between them: an SVG stays small."""

    RESOLUTION = 1


def render(revision: Revision, clusters: Sequence[Cluster], timeline: Timeline, image_format: str) -> bytes:
    """The image as png or svg. `clusters` are those of the burst that have a place; at least one."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own style is
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(14, 8.6), dpi=110)
        rows = figure.add_gridspec(2, 2, **LAYOUT)
        _headline(figure, revision, clusters)
        _sky(figure.add_subplot(rows[0, 0], axes_class=Globe), revision, clusters)
        _world(figure.add_subplot(rows[0, 1], axes_class=Globe), revision, clusters)
        _time(figure.add_subplot(rows[1, 1]), revision, timeline)
        _causes(figure.add_subplot(rows[1, 0]), revision)
        image = io.BytesIO()
        undated = {"Date": None} if image_format == "svg" else {"Software": None}
        figure.savefig(image, format=image_format, metadata=undated)
    return image.getvalue()


def headline(revision: Revision) -> tuple[str, str]:
    """What the burst was and how sure that is, as a title and the line below it."""
    what = WHAT[revision.label]
    if revision.label == "celestial":
        what = f"coherent with direction RA {revision.ra_deg:.0f}°, Dec {revision.dec_deg:+.0f}°"
    retracted = "RETRACTED: " if revision.kind == "retract" else ""
    sure = _percent(revision.posterior.get(revision.label, 0.0))
    if revision.held_back:
        sure += f"; {revision.held_back}, {_percent(revision.posterior[revision.held_back])}, {NOT_NAMED}"
    title = f"{retracted}Burst {_printable(revision.burst_id)}: {what} ({revision.label}, {sure})"
    start, end = _utc(revision.t_start_ns), _utc(revision.t_end_ns)
    until = f"{end:%H:%M}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M}"
    observed, expected = (sum(getattr(share, key) for share in revision.clusters) for key in ("observed", "expected"))
    return title, "  ·  ".join(
        (
            false_alarms(revision),
            f"{start:%Y-%m-%d %H:%M} to {until} UTC",
            f"{observed} novel faults in the best {revision.window_min} minutes, {expected:.3g} expected",
            f"revision {revision.rev}",
        )
    )


def _headline(figure: Figure, revision: Revision, clusters: Sequence[Cluster]) -> None:
    title, below = headline(revision)
    is_retracted = revision.kind == "retract"
    figure.text(0.02, 0.955, title, fontsize=14, fontweight="bold", color=RED if is_retracted else "black")
    figure.text(0.02, 0.923, below, color="#333333")
    if is_retracted:
        figure.text(0.5, 0.45, "RETRACTED", fontsize=90, color=RED, alpha=0.13, rotation=25, ha="center", va="center")
    absent = len(revision.clusters) - len(clusters)
    if absent:
        figure.text(0.02, 0.9, f"not shown: {absent} clusters that the inventory no longer has", color=RED)


def _sky(axes: Axes, revision: Revision, clusters: Sequence[Cluster]) -> None:
    """Right ascension grows to the left, as seen from inside; the map's centre is near the source."""
    centre_deg = round(revision.ra_deg / 30) * 30 % 360
    density = mapping.posterior_map(revision, clusters, centre_deg)
    across, up = -np.radians(density.longitudes_deg), np.radians(density.latitudes_deg)
    half, most = density.level(0.5), density.level(0.9)
    alpha = _prominence(revision)
    if most < half < density.values.max():
        axes.contourf(
            across,
            up,
            density.values,
            levels=[most, half, density.values.max() * 1.01],
            colors=[SKY, BLUE],
            alpha=alpha,
        )
        axes.contour(across, up, density.values, levels=[most, half], colors="black", linewidths=0.7, alpha=alpha)
    ra_deg = (revision.ra_deg - centre_deg + 180) % 360 - 180
    axes.plot(
        -np.radians(ra_deg), np.radians(revision.dec_deg), "*", ms=13, color=ORANGE, mec="black", mew=0.8, alpha=alpha
    )
    ticks = np.arange(-150, 151, 30)
    axes.set_xticks(
        np.radians(ticks), [f"{(centre_deg - tick) % 360}°" if tick in (-120, -60, 60, 120) else "" for tick in ticks]
    )
    _grid(axes)
    sure = revision.posterior.get("celestial", 0.0)
    axes.set_title(f"Sky: where a source would stand, were it one ({_percent(sure)})", pad=14)
    handles = [
        Line2D([], [], marker="s", ls="", color=BLUE, ms=8, label=f"50 %: {revision.area50_deg2:.0f} deg²"),
        Line2D([], [], marker="s", ls="", color=SKY, ms=8, label=f"90 %: {revision.area90_deg2:.0f} deg²"),
        Line2D([], [], marker="*", ls="", color=ORANGE, mec="black", ms=10, label="mean direction (J2000)"),
    ]
    _legend(axes, handles)


def _world(axes: Axes, revision: Revision, clusters: Sequence[Cluster]) -> None:
    _earth(axes, revision)
    _source(axes, revision)
    found = mapping.sites(revision, clusters)
    _clusters(axes, found)
    _labels(axes, found)
    axes.set_xticks(np.radians(np.arange(-120, 121, 60)), [])
    _grid(axes)
    axes.set_title("World: what each cluster saw (area and figure: novel faults)", pad=14)
    if revision.label == "low-cutoff":
        backdrop = Line2D([], [], color=NIGHT, lw=0.8, alpha=0.6, label="cutoff in GV, of a dipole")
    else:
        backdrop = Line2D([], [], marker="s", ls="", color=NIGHT, alpha=0.25, ms=8, label="night")
    handles = [
        Line2D([], [], marker="*", ls="", color=ORANGE, mec="black", ms=10, label="source in the zenith"),
        Line2D([], [], marker="X", ls="", color="white", mec="black", ms=7, label="antipode"),
        Line2D([], [], ls="--", color="black", lw=1, label="source on the horizon"),
        backdrop,
        Line2D([], [], marker="o", ls="", color="none", mec=GREY, ms=5, label="no more than expected"),
    ]
    _legend(axes, handles)


def _earth(axes: Axes, revision: Revision) -> None:
    """Land, and night or, where the cutoff is the point, lines of equal cutoff."""
    rings = [np.array(_radians(*ring)).T for ring in mapping.land()]
    outline = Outline.make_compound_path(*(Outline(np.vstack([ring, ring[:1]]), closed=True) for ring in rings))
    axes.add_patch(PathPatch(outline, facecolor=LAND, edgecolor="#b8b2a6", linewidth=0.4, zorder=0))
    if revision.label == "low-cutoff":
        cutoff = mapping.cutoff_map()
        lines = axes.contour(*_mesh(cutoff), cutoff.values, levels=CUTOFFS_GV, colors=NIGHT, linewidths=0.8, alpha=0.6)
        axes.clabel(lines, fontsize=7)
    else:
        sun = mapping.sun_elevation_map(mapping.mid_time_ns(revision))
        axes.contourf(*_mesh(sun), sun.values, levels=[-1.01, 0], colors=[NIGHT], alpha=0.13, zorder=1)


def _source(axes: Axes, revision: Revision) -> None:
    """The place on Earth that has the source in its zenith, its antipode, and the circle that has it on the horizon."""
    latitude, longitude = revision.ground_latitude_deg, revision.ground_longitude_deg
    style: dict[str, Any] = {"mec": "black", "mew": 0.8, "zorder": 5, "alpha": _prominence(revision)}
    axes.plot(*_radians(latitude, longitude), "*", ms=13, color=ORANGE, **style)
    axes.plot(*_radians(-latitude, longitude % 360 - 180), "X", ms=8, color="white", **style)
    axes.plot(*_radians(*mapping.horizon(latitude, longitude)), "--", color="black", lw=1, alpha=_prominence(revision))


def _prominence(revision: Revision) -> float:
    """A direction that isn't the likely cause stays in the background."""
    return 1.0 if revision.label == "celestial" else 0.35


def _clusters(axes: Axes, found: Sequence[Site]) -> None:
    """Area grows with the faults, colour with how many times the expectation they are."""
    quiet = [site for site in found if site.share.observed <= site.share.expected]
    raised = [site for site in found[::-1] if site.share.observed > site.share.expected]  # the largest on top
    small = 4 if len(found) > 500 else 16
    axes.scatter(*_places(quiet), s=small, facecolors="none", edgecolors=GREY, linewidths=0.7, zorder=3)
    if not raised:
        return
    norm = LogNorm(1, max(10.0, max(site.ratio for site in raised)))
    most = max(site.share.observed for site in raised)
    large = 170 * min(1, 40 / len(raised)) ** 0.5
    axes.scatter(
        *_places(raised),
        s=[2 * small + large * site.share.observed / most for site in raised],
        c=[site.ratio for site in raised],
        norm=norm,
        cmap="viridis_r",
        edgecolors="black",
        linewidths=0.5,
        zorder=4,
    )
    corner = axes.inset_axes((0.83, 0.0, 0.16, 0.025))  # where the ellipse leaves room
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(norm, "viridis_r"), cax=corner, orientation="horizontal", format="{x:g}")
    bar.ax.set_title("observed / expected", fontsize=8, fontweight="normal", pad=3)
    bar.ax.tick_params(labelsize=7)


def _labels(axes: Axes, found: Sequence[Site]) -> None:
    """Names of the largest that took part, as far as they don't cover each other."""
    taken: list[tuple[float, float]] = []
    for site in found:
        across, up = math.radians(site.longitude_deg), math.radians(site.latitude_deg)
        free = all(abs(across - x) * math.cos(up) > APART[0] or abs(up - y) > APART[1] for x, y in taken)
        if len(taken) < LABELS_MAX and free and site.share.takes_part:
            taken.append((across, up))
            text = f"{_printable(site.share.cluster)} {site.share.observed}"
            is_east = site.longitude_deg > 100
            axes.annotate(
                text,
                (across, up),
                xytext=(-8 if is_east else 8, 5),
                textcoords="offset points",
                ha="right" if is_east else "left",
                fontsize=8,
                zorder=6,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7},
            )


def _time(axes: Axes, revision: Revision, timeline: Timeline) -> None:
    first, end = mapping.around(revision)
    known_end = timeline.first_minute + len(timeline.observed)
    start, over = _days(revision.t_start_ns), _days(revision.t_end_ns)
    expected = timeline.expected_per_minute
    axes.axvspan(start, over, color=ORANGE, alpha=0.25, lw=0, label="the burst")
    edges = [_days(minute * MINUTE_NS) for minute in range(first, known_end + 1)]
    axes.stairs(timeline.observed, edges, fill=True, color=BLUE, label="observed")
    axes.axhline(expected, color="black", ls="--", lw=1, label=f"expected: {expected:.2g}")
    if known_end < end:
        axes.axvspan(_days(known_end * MINUTE_NS), _days(end * MINUTE_NS), label="no data", **UNKNOWN)
    axes.set_xlim(_days(first * MINUTE_NS), _days(end * MINUTE_NS))
    axes.set_ylim(0, max(float(timeline.observed.max(initial=0)), expected) * 1.15 + 0.5)
    axes.xaxis_date(tz=UTC)
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M", tz=UTC))
    axes.set_xlabel("UTC")
    axes.set_ylabel("novel faults a minute")
    axes.set_title("Time: the clusters that took part")
    axes.legend(loc="upper right", framealpha=0.8, edgecolor="none", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _causes(axes: Axes, revision: Revision) -> None:
    ranked = sorted(revision.posterior.items(), key=lambda item: (item[1], item[0]))
    names, values = [name for name, _ in ranked], [value for _, value in ranked]
    bars = axes.barh(
        names, values, color=[ORANGE if name == revision.label else SKY for name in names], ec="black", lw=0.4
    )
    axes.bar_label(bars, [_percent(value) for value in values], padding=4)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.set_title("Causes: posterior probability")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    shared = "; ".join(
        f"{factor.attribute}={factor.value} {factor.victims} of {factor.victims_total}"
        for factor in revision.factors[:3]
    )
    axes.set_xlabel(f"shared by the victims: {_printable(shared, 90)}" if shared else "")


def _grid(axes: Axes) -> None:
    """Parallels are matplotlib's, which are straight lines; meridians are ours, since they bend."""
    ups = np.arange(-60, 61, 30)
    axes.set_yticks(np.radians(ups), [f"{up:+d}°" if up else "0°" for up in ups])
    axes.tick_params(labelsize=7, labelcolor="#444444")
    axes.grid(axis="x", visible=False)
    axes.grid(axis="y", color="#999999", linewidth=0.3)
    axes.set_axisbelow(False)
    along = np.radians(np.arange(-90, 91, 2))
    for across in np.radians(np.arange(-150, 151, 30)):
        axes.plot(np.full(len(along), across), along, color="#999999", linewidth=0.3, zorder=0.5)


def _legend(axes: Axes, handles: Sequence[Line2D]) -> None:
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.02), "borderaxespad": 0}
    axes.legend(handles=handles, ncols=3, frameon=False, fontsize=8, handletextpad=0.3, **place)


def _radians(latitude_deg: float | np.ndarray, longitude_deg: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Across and up, as matplotlib's projections want them."""
    return np.radians(longitude_deg), np.radians(latitude_deg)


def _places(found: Sequence[Site]) -> tuple[np.ndarray, np.ndarray]:
    return _radians(np.array([site.latitude_deg for site in found]), np.array([site.longitude_deg for site in found]))


def _mesh(field: Map) -> tuple[np.ndarray, np.ndarray]:
    return np.radians(field.longitudes_deg), np.radians(field.latitudes_deg)


def _days(time_ns: int) -> float:
    """A date as matplotlib counts them: days since 1970."""
    return time_ns / DAY_NS


def _utc(time_ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)


def _percent(share: float) -> str:
    """Never quite certain: rounding mustn't say so."""
    if share > 0.999:
        return "> 99.9 %"
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _printable(text: str, characters_max: int = LABEL_CHARACTERS_MAX) -> str:
    """Names are other people's: what the font can't draw is shown as a box, and what is too long is cut."""
    drawable = font_manager.get_font(font_manager.findfont(FONT)).get_charmap()
    shown = "".join(c if c.isprintable() and ord(c) in drawable else "□" for c in text)
    return shown if len(shown) <= characters_max else shown[: characters_max - 1] + "…"
