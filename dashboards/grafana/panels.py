"""The words that all dashboards are written in: filters, queries, panels, variables, links.

Enters: titles, descriptions, PromQL. Leaves: builders of grafana-foundation-sdk, which checks their types. A query
writes `<host>`, `<cluster>` or `<job>` where the dashboard's filters belong; that keeps the PromQL readable and lets no
query forget one. No query is ever made of a value that came from a host: filters are Grafana's own variables.
Format: Grafana's dashboard JSON model, schemaVersion 42, https://grafana.com/docs/grafana/latest/dashboards/.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import geomap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.geomap import TooltipMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards import annotations

TAG = "flipwatch"
SOURCE = common.DataSourceRef(type_val="prometheus", uid="$datasource")
GRAFANA = common.DataSourceRef(
    type_val="grafana", uid="-- Grafana --"
)  # its own store of annotations, in every Grafana

JOB = 'job=~"$job"'
CLUSTER = f'{JOB},cluster=~"$cluster"'
HOST = f'{CLUSTER},instance=~"$instance"'
FILTERS = {"<job>": JOB, "<cluster>": CLUSTER, "<host>": HOST}

# Two collectors may watch the same agents; each says the same, so what clusters say is taken once by max. Where they
# don't agree on the place of a cluster, it stands at one of them.
PLACE = "latitude, longitude"
PLACES = (
    f"on (cluster) group_left ({PLACE})"
    f" topk by (cluster) (1, max by (cluster, {PLACE}) (flipwatch_cluster_info{{<cluster>}}))"
)

# A place where a part was replaced says so beside the state of the part that sits there now.
STATE = 'flipwatch_device_state{<host>,state!="replaced"}'

# Who can't see memory errors and should: a virtual machine's are its host's to watch.
PHYSICAL = "unless on (cluster, instance) flipwatch_host_virtual{<cluster>} == 1"

GREEN, ORANGE, RED, GREY, BLUE = "green", "orange", "red", "#808080", "blue"
Panel = Any  # each kind of panel has a builder class of its own, and they share no base with the methods used here


@dataclass(frozen=True, slots=True)
class Query:
    expr: str
    legend: str = "__auto"

    def text(self) -> str:
        """The PromQL with the filters in it."""
        text = self.expr
        for token, matchers in FILTERS.items():
            text = text.replace(token, matchers)
        return text


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: the field it shows (a label, or the value of the query with that letter) and how."""

    title: str
    unit: str = ""
    links: Mapping[str, str] = field(default_factory=dict)  # title -> URL
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # value -> (text, colour)


def per_hour(counter: str, label: str) -> str:
    """The rate per hour of a counter that collectors keep per cluster and stream, summed by a label."""
    return f"3600 * sum by ({label}) (max by (cluster, stream) (rate({counter}{{<cluster>}}[$__rate_interval])))"


def recorded_rate(record: str, label: str) -> str:
    """A rate that the rules record by cluster, summed by a label. The average misses no error, however far apart the
    points of the graph are."""
    return f"sum by ({label}) (avg_over_time({record}{{<cluster>}}[$__rate_interval]))"


def in_range(counter: str) -> str:
    """How much such a counter rose in the selected time, by cluster."""
    return f"sum by (cluster) (max by (cluster, stream) (increase({counter}{{<cluster>}}[$__range])))"


def uid(name: str) -> str:
    return f"flipwatch-{name}"


def board(
    name: str,
    title: str,
    description: str,
    variables: list[Any],
    panels: Iterable[Panel],
    since: str = "now-24h",
) -> Any:
    """A dashboard of ours: linked to the others, annotated with bursts, not to be edited in place.

    It opens with what happened from `since` on.
    """
    built = (
        dashboards.Dashboard(title)
        .uid(uid(name))
        .description(description)
        .tags([TAG])
        .readonly()
        .time(since, "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .variables(variables)
        .annotations([_pushed_bursts(), _bursts_of_metrics()])
        .link(
            dashboards.DashboardLink("flipwatch")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
            .as_dropdown(False)
        )
    )
    for number, panel in enumerate(panels, 1):
        built.with_panel(panel.id(number))
    return built.build()


def _pushed_bursts() -> dashboards.AnnotationQuery:
    # the SDK types it as no data query, though it takes its place
    tags: Any = dashboards.AnnotationTarget().limit(100).match_any(False).tags([annotations.TAG]).type("tags")
    return (
        dashboards.AnnotationQuery()
        .name("Bursts")
        .datasource(GRAFANA)
        .enable(True)
        .hide(False)
        .icon_color(RED)
        .target(tags)
    )


def _bursts_of_metrics() -> dashboards.AnnotationQuery:
    """For those who don't push: less exact, so off until somebody wants it."""
    query = prometheus.Dataquery().expr(Query("flipwatch_burst_start_timestamp_seconds{<job>}").text()).ref_id("A")
    return (
        dashboards.AnnotationQuery()
        .name("Bursts (from metrics)")
        .datasource(SOURCE)
        .enable(False)
        .hide(False)
        .icon_color(ORANGE)
        .target(query)
        .text_format("{{cause}} {{burst_id}}")
        .title_format("Burst")
    )


# -- variables


def data_source_variable() -> Any:
    return dashboards.DatasourceVariable("datasource").label("Data source").type("prometheus")


def label_variable(name: str, series: str, all_value: str, include_all: bool = True) -> Any:
    """A filter whose choices are the values of a label. Without All the first is chosen at first."""
    query = f"label_values({series}, {name})"
    variable = (
        dashboards.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query({"query": query, "refId": "StandardVariableQuery"})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(include_all)
        .all_value(all_value)
    )
    every = dashboard.VariableOption(text="All", value="$__all", selected=True)
    return variable.current(every) if include_all else variable


def fleet_variables() -> list[Any]:
    """Filters of a dashboard that looks at clusters. A host may have no label `cluster`; a job it always has."""
    either = '{__name__=~"flipwatch_build_info|flipwatch_correlator_state"}'
    placed = f'{{__name__=~"flipwatch_build_info|flipwatch_cluster_info",{JOB}}}'
    return [data_source_variable(), label_variable("job", either, ".+"), label_variable("cluster", placed, ".*")]


def host_variables(all_hosts: bool = True) -> list[Any]:
    """Filters of a dashboard that looks at hosts; without `all_hosts` somebody who opens it sees one host at first."""
    return [
        data_source_variable(),
        label_variable("job", "flipwatch_build_info", ".+"),
        label_variable("cluster", f"flipwatch_build_info{{{JOB}}}", ".*"),
        label_variable("instance", f"flipwatch_build_info{{{CLUSTER}}}", ".+", all_hosts),
    ]


# -- panels


def _common(panel: Panel, title: str, description: str, size: tuple[int, int]) -> Panel:
    width, height = size
    return panel.title(title).description(description).datasource(SOURCE).span(width).height(height)


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.text()).legend_format(query.legend).ref_id(ref).datasource(SOURCE)


def _letters(queries: Sequence[Query]) -> Iterable[tuple[str, Query]]:
    return zip("ABCDEFGHIJ", queries, strict=False)


def _legend() -> common_builders.VizLegendOptions:
    # what the SDK isn't told it writes as off, unlike Grafana's own default
    legend = common_builders.VizLegendOptions().show_legend(True)
    return legend.display_mode(common.LegendDisplayMode.LIST).placement(common.LegendPlacement.BOTTOM)


def _steps(*steps: tuple[float | None, str]) -> dashboards.ThresholdsConfig:
    return (
        dashboards.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value=value, color=color) for value, color in steps])
    )


def _mapping(words: Mapping[str, tuple[str, str]]) -> list[dashboard.ValueMapping]:
    results = {
        value: dashboard.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(words.items())
    }
    return [dashboard.ValueMap(options=results)]


def number(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    bad_from: float | None = None,
    words: Mapping[str, tuple[str, str]] | None = None,
    link: str = "",
    width: int = 4,
) -> Panel:
    """One or a few large numbers as of now; red from `bad_from` on."""
    panel = _common(stat.Panel(), title, description, (width, 4)).unit(unit)
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.graph_mode(common.BigValueGraphMode.NONE).text_mode(common.BigValueTextMode.AUTO)
    steps: list[tuple[float | None, str]] = [(None, BLUE)] if bad_from is None else [(None, GREEN), (bad_from, RED)]
    panel.thresholds(_steps(*steps)).color_mode(common.BigValueColorMode.VALUE)
    if words:
        panel.mappings(_mapping(words))
    if link:
        panel.links([dashboards.DashboardLink("Details").type(dashboard.DashboardLinkType.LINK).url(link)])
    for ref, query in _letters(queries):
        panel.with_target(_target(query, ref).instant())
    return panel


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    axis: str = "",
    dashed: str = "",
    width: int = 12,
) -> Panel:
    """Lines over time; those whose name matches `dashed` are what was expected of the others."""
    panel = _common(timeseries.Panel(), title, description, (width, 8)).unit(unit).min(0)
    panel.axis_label(axis).fill_opacity(10).show_points(common.VisibilityMode.NEVER)
    tooltip = common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI)
    panel.tooltip(tooltip.sort(common.SortOrder.DESCENDING)).legend(_legend())
    if dashed:
        style = dashboard.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]})
        panel.override_by_regexp(dashed, [style])
    for ref, query in _letters(queries):
        panel.with_target(_target(query, ref).range())
    return panel


def states(title: str, description: str, query: Query, words: Mapping[str, tuple[str, str]], width: int = 12) -> Panel:
    """What each of several things was, over time."""
    panel = _common(statetimeline.Panel(), title, description, (width, 8)).unit("none")
    panel.mappings(_mapping(words)).merge_values(True).show_value(common.VisibilityMode.NEVER).fill_opacity(70)
    panel.legend(_legend())
    return panel.with_target(_target(query, "A").range())


def rows(
    title: str,
    description: str,
    queries: Sequence[Query],
    columns: Mapping[str, Column],
    *,
    sort: Sequence[str] = (),
    width: int = 24,
    height: int = 10,
) -> Panel:
    """A table as of now: the queries' rows are merged where the labels that they share are equal.

    `columns` maps a field to how it's shown, in order: a label, or for a value the letter of its query.
    """
    panel = _common(table.Panel(), title, description, (width, height)).unit("short").filterable(True)
    for ref, query in _letters(queries):
        panel.with_target(_target(query, ref).instant().format(PromQueryFormat.TABLE))
    letters = [ref for ref, _ in _letters(queries)]
    value_of = {ref: f"Value #{ref}" if len(letters) > 1 else "Value" for ref in letters}
    shown = {value_of.get(name, name): column for name, column in columns.items()}
    hidden = ["Time", *(name for name in value_of.values() if name not in shown)]
    if len(letters) > 1:
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    arrangement = {
        "excludeByName": dict.fromkeys(hidden, True),
        "indexByName": {name: index for index, name in enumerate(shown)},
        "renameByName": {name: column.title for name, column in shown.items()},
    }
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="organize", options=arrangement))
    for column in columns.values():
        if properties := list(_properties(column)):
            panel.override_by_name(column.title, properties)
    if sort:
        panel.sort_by([common_builders.TableSortByFieldState().display_name(name).desc(True) for name in sort])
    return panel


def _properties(column: Column) -> Iterable[dashboard.DynamicConfigValue]:
    if column.unit:
        yield dashboard.DynamicConfigValue(id_val="unit", value=column.unit)
    if column.links:
        yield _links(column.links)
    if column.words:
        yield dashboard.DynamicConfigValue(id_val="mappings", value=_mapping(column.words))
        cell = {"type": "color-text"}
        yield dashboard.DynamicConfigValue(id_val="custom.cellOptions", value=cell)


def _links(urls: Mapping[str, str]) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(
        id_val="links", value=[{"title": title, "url": url} for title, url in urls.items()]
    )


def clusters_map(title: str, description: str, query: Query, width: int = 12) -> Panel:
    """A map with a marker at the `latitude` and `longitude` labels of each series, as large as its value."""
    panel = _common(geomap.Panel(), title, description, (width, 12)).unit("short")
    numeric = [{"targetField": name, "destinationType": "number"} for name in ("latitude", "longitude")]
    convert = {"conversions": numeric, "fields": {}}
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="convertFieldType", options=convert))
    size = {"field": "Value", "fixed": 6, "min": 5, "max": 25}
    style = {"color": {"field": "Value", "fixed": BLUE}, "size": size, "opacity": 0.6}
    where = common_builders.FrameGeometrySource().mode(common.FrameGeometrySourceMode.COORDS)
    layer = (
        common_builders.MapLayerOptions()
        .type("markers")
        .name("Clusters")
        .config({"showLegend": False, "style": style})
        .location(where.latitude("latitude").longitude("longitude"))
        .tooltip(True)
    )
    panel.layers([layer]).view(geomap.MapViewConfig().id("zero").zoom(1))
    panel.tooltip(geomap.TooltipOptions().mode(TooltipMode.DETAILS))  # the cluster's name, and its links
    panel.controls(geomap.ControlsOptions().show_zoom(True).mouse_wheel_zoom(True).show_attribution(True))
    panel.thresholds(_steps((None, GREEN), (1, ORANGE), (10, RED)))
    panel.override_by_name("cluster", [_links(cluster_links())])  # in the marker's tooltip
    return panel.with_target(_target(query, "A").instant().format(PromQueryFormat.TABLE))


# -- links. What a label says is percent-encoded: it came from a host, and may hold anything.


def host_links() -> dict[str, str]:
    """From a row that names a host."""
    return {"Host": _link("host", _label("cluster"), _label("instance"))}


def cluster_links() -> dict[str, str]:
    """From a row that names a cluster, to its hosts (the first is chosen), parts and stored data."""
    boards = {"Hosts": "host", "Parts to replace": "parts", "Stored data": "stored"}
    return {title: _link(name, _label("cluster")) for title, name in boards.items()}


def board_link(name: str) -> str:
    return _link(name, "${cluster:queryparam}")


def _label(name: str) -> str:
    return f"var-{name}=${{__data.fields.{name}:percentencode}}"


def _link(name: str, *filters: str) -> str:
    query = ("${datasource:queryparam}", "${job:queryparam}", *filters, "${__url_time_range}")
    return f"/d/{uid(name)}?{'&'.join(query)}"
