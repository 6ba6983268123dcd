// Every plot is a function that draws itself anew from the data and from what the reader chose.

const GREY = "#808080";
const phone = matchMedia("(max-width: 45rem)");
const config = {responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]]};

// plotly reads some HTML in texts
const plain = text => String(text).replace(/[&<>]/g, sign => ({"&": "&amp;", "<": "&lt;", ">": "&gt;"}[sign]));
const fixed = (value, digits = 1) => value.toFixed(digits);
const signed = (value, digits = 1) => (value < 0 ? "" : "+") + value.toFixed(digits);
const nameOf = index => plain(data.series[index].label);
const seriesShown = index => isShown(data.series[index].group);

// where many curves are shown, those that a reader looks for second step back
function isLight(index) {
  const shown = data.series.filter(each => isShown(each.group));
  return shown.length > data.many && shown.some(each => each.main) && !data.series[index].main;
}

function layoutOf(axes) {
  const axis = {zeroline: false, gridcolor: GREY, automargin: true};
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    margin: {l: phone.matches ? 40 : 56, r: 12, t: 26, b: 44}, hovermode: "closest", dragmode: false,
    hoverlabel: {align: "left"}, modebar: {bgcolor: "rgba(0,0,0,0)", color: GREY, activecolor: GREY},
    font: {family: "system-ui, sans-serif", size: phone.matches ? 11 : 13}, ...axes,
  };
  for (const name of ["xaxis", "yaxis"]) layout[name] = {...axis, ...layout[name], title: {standoff: 8, ...layout[name].title}};
  return layout;
}

function show(id, traces, layout) {
  const element = $(id);
  const isNew = !element.data;
  Plotly.react(element, traces, layout, config);
  if (isNew) element.on("plotly_click", event => {
    const series = event.points[0].data.meta;
    if (typeof series === "number" && series >= 0) only(data.series[series].group);
  });
}

function lineOf(index, width) {
  const {color, dash} = data.series[index];
  return {color, dash, width};
}

// ---- the ID-OOD plane

function hoverOf(cell) {
  const parts = [cell.setting, cell.runs.length > 1 ? `mean of ${cell.runs.length} seeds` : `seed ${cell.seeds[0]}`];
  const shifts = Object.entries(cell.shifts).map(([name, value]) => `${plain(name)} ${fixed(value)}`);
  const sd = place => cell.sd ? ` ± ${fixed(cell.sd[place])}` : "";
  return `<b>${nameOf(cell.series)}</b><br>${parts.filter(Boolean).join(", ")}<br>ID ${fixed(cell.id)}${sd(0)}<br>OOD ${fixed(cell.ood)}${sd(1)}<br>${shifts.join("<br>")}`;
}

function drawPlane() {
  const traces = [], cells = data.cells;
  const shown = cells.filter(cell => seriesShown(cell.series));
  const front = $("front").value;
  const line = (points, rest) => traces.push({x: points.map(p => p && p[0]), y: points.map(p => p && p[1]), mode: "lines", hoverinfo: "skip", ...rest});
  if (front === "own" || front === "both") {
    for (const own of data.fronts.own.filter(own => seriesShown(own.series))) {
      line(own.points, {meta: own.series, opacity: .3, line: {color: data.series[own.series].color, width: 8}});
    }
  }
  if (front === "overall" || front === "both") {
    line(data.fronts.overall, {name: "overall front", line: {color: GREY, width: 5}, opacity: .4});
  }
  data.series.forEach((series, index) => {
    if (!seriesShown(index) || isLight(index)) return;
    const several = shown.filter(cell => cell.series === index && cell.ellipse && cell.alpha === null);
    if (isChecked("ellipses") && several.length) {
      const outlines = several.flatMap(cell => [...cell.ellipse, null]);
      line(outlines, {meta: index, name: "spread", fill: "toself", line: {color: series.color, width: .8}, opacity: .35});
    }
    if (isChecked("runs") && several.length) {
      const runs = several.flatMap(cell => cell.runs.map((run, k) => [run[0], run[1], `<b>${nameOf(index)}</b><br>${[cell.setting, `seed ${cell.seeds[k]}`].filter(Boolean).join(", ")}<br>ID ${fixed(run[0])}<br>OOD ${fixed(run[1])}`]));
      traces.push({x: runs.map(r => r[0]), y: runs.map(r => r[1]), text: runs.map(r => r[2]), hoverinfo: "text", mode: "markers", meta: index, name: "runs",
        marker: {symbol: series.symbol, size: 5, color: series.color, opacity: .45}});
    }
  });
  // lines over alpha first, so that their ends lie under the models they end at
  for (const path of [...data.paths].sort((a, b) => b.alpha - a.alpha)) {
    if (!seriesShown(path.series) || (path.alpha && $("interpolations") && !isChecked("interpolations"))) continue;
    const own = path.cells.map(k => cells[k]);
    const light = isLight(path.series), many = own.filter(cell => cell.series === path.series).length > 1;
    traces.push({x: own.map(c => c.id), y: own.map(c => c.ood), text: own.map(hoverOf), hoverinfo: "text", meta: path.series, name: nameOf(path.series),
      mode: many || path.alpha ? "lines+markers" : "markers", opacity: light ? .45 : 1,
      line: lineOf(path.series, path.alpha || light ? 1.1 : 2.2),
      // the ends of a line over alpha belong to other methods, which draw them themselves
      marker: {symbol: data.series[path.series].symbol, color: data.series[path.series].color, opacity: 1, line: {width: 0},
        size: own.map(c => c.series !== path.series ? 0 : !c.trained ? 15 : c.alpha !== null ? 5 : light ? 7 : 10)}});
  }
  const chosen = shown.filter(cell => cell.trained && cell.chosen.includes("id_validation") && !isLight(cell.series));
  traces.push({x: chosen.map(c => c.id), y: chosen.map(c => c.ood), mode: "markers", hoverinfo: "skip", name: "chosen by ID validation",
    marker: {symbol: "circle-open", size: 19, color: GREY, line: {width: 1.6}}});
  const view = data.views[$("view").value];
  show("plane", traces, layoutOf({
    xaxis: {title: {text: data.names.in_domain}, ticksuffix: data.names.unit, range: view.x},
    yaxis: {title: {text: data.names.under_shift}, ticksuffix: data.names.unit, range: view.y},
  }));
}

// ---- differences at matched ID

function drawDifferences() {
  const against = data.standings[$("reference").value];
  offer($("level"), [["0", "at its own ID"], ...against.levels.map((level, k) => [String(k + 1), `at ID ${fixed(level)}%`])]);
  const level = Number($("level").value);
  const rows = against.differences
    .filter(([series, each]) => seriesShown(series) && each[level])
    .map(([series, each]) => ({series, ...each[level]}))
    .sort((a, b) => a.mean - b.mean);
  const traces = rows.map((row, place) => ({
    x: [row.mean], y: [place], mode: "markers", meta: row.series, name: nameOf(row.series), hoverinfo: "text",
    text: [`<b>${nameOf(row.series)}</b><br>${signed(row.mean)} points${row.bounds ? ` [${row.bounds.map(b => signed(b)).join(", ")}]` : ""}<br>n = ${row.n}${row.significant ? "" : ", not significant"}`],
    opacity: row.significant ? 1 : .55,
    marker: {symbol: data.series[row.series].symbol + (row.significant ? "" : "-open"), size: 11, color: data.series[row.series].color, line: {width: 1.8, color: data.series[row.series].color}},
    error_x: row.bounds ? {type: "data", symmetric: false, array: [row.bounds[1] - row.mean], arrayminus: [row.mean - row.bounds[0]], color: data.series[row.series].color, thickness: 2, width: 0} : undefined,
  }));
  const element = $("differences");
  element.style.height = `${Math.max(7, 4.5 + 1.55 * rows.length)}rem`;
  const short = text => phone.matches && text.length > 16 ? text.slice(0, 15) + "…" : text.length > 44 ? text.slice(0, 43) + "…" : text;
  show("differences", traces, layoutOf({
    xaxis: {title: {text: `OOD minus ${plain(short(against.label))}, points`}, zeroline: true, zerolinewidth: 1.5, rangemode: "tozero"},
    yaxis: {tickvals: rows.map((_, place) => place), ticktext: rows.map(row => plain(short(data.series[row.series].label))), range: [-.7, rows.length - .3], showgrid: false, title: {text: ""}},
  }));
}

// ---- cost

function drawCost() {
  const x = Number($("cost-x").value), y = Number($("cost-y").value);
  const points = data.cost.points.filter(point => seriesShown(point.series) && point.costs[x] !== null && point.ood[y]);
  const highest = Math.max(0, ...points.map(point => point.costs[x]));
  const digits = highest < 10 ? 2 : 1;
  const traces = points.map(point => {
    const {color, symbol} = data.series[point.series], [mean, sd] = point.ood[y], light = isLight(point.series);
    return {
      x: [point.costs[x]], y: [mean], mode: phone.matches || light || nameOf(point.series).length > 24 ? "markers" : "markers+text", meta: point.series, name: nameOf(point.series),
      text: [" " + nameOf(point.series) + " "], textposition: point.costs[x] > .6 * highest ? "middle left" : "middle right", textfont: {size: 11}, cliponaxis: false,
      hovertext: [`<b>${nameOf(point.series)}</b><br>${point.setting}<br>${plain(data.cost.costs[x])}: ${fixed(point.costs[x], digits)}<br>OOD ${fixed(mean)}${sd === null ? "" : ` ± ${fixed(sd)}`}`], hoverinfo: "text",
      opacity: light ? .5 : 1, marker: {symbol, color, size: light ? 9 : 13, opacity: 1},
      error_y: sd === null ? undefined : {type: "data", array: [sd], color, thickness: 1.2, width: 0},
    };
  });
  show("cost", traces, layoutOf({
    xaxis: {title: {text: data.cost.costs[x]}, range: [0, 1.06 * highest || 1]},
    yaxis: {title: {text: data.names.under_shift}, ticksuffix: data.names.unit},
  }));
}

// ---- learning curves

function drawLearning() {
  const measure = Number($("learning-measure").value), every = $("learning-all").checked;
  const traces = [];
  for (const each of data.learning.lines) {
    if (!seriesShown(each.series) || !(every || each.chosen)) continue;
    const known = each.values[measure].map((value, k) => [each.steps[k], ...value]).filter(value => value[1] !== null);
    if (!known.length) continue;
    const {color, symbol} = data.series[each.series], light = isLight(each.series);
    if (!every && !light && known.every(value => value[2] !== null)) {
      const back = [...known].reverse();
      traces.push({x: [...known, ...back].map(v => v[0]), y: [...known.map(v => v[1] + v[2]), ...back.map(v => v[1] - v[2])], fill: "toself", mode: "lines", line: {width: 0, color}, opacity: .18, hoverinfo: "skip", meta: each.series, name: "spread"});
    }
    traces.push({x: known.map(v => v[0]), y: known.map(v => v[1]), mode: "lines+markers", meta: each.series, name: nameOf(each.series), opacity: light || every && !each.chosen ? .45 : 1,
      line: lineOf(each.series, light ? 1.1 : 2), marker: {symbol, color, size: 7}, hoverinfo: "text",
      text: known.map(v => `<b>${nameOf(each.series)}</b><br>${each.setting}, step ${v[0]}<br>${plain(data.learning.measures[measure])} ${fixed(v[1], 2)}${v[2] === null ? "" : ` ± ${fixed(v[2], 2)}`}`)});
  }
  show("learning", traces, layoutOf({xaxis: {title: {text: "optimizer steps"}}, yaxis: {title: {text: data.learning.measures[measure]}}}));
}

// ---- options of a method

let sweepShown;

function drawSweep() {
  const sweep = data.sweeps[$("sweep-method").value];
  if (sweepShown && sweepShown !== sweep) $("sweep-y").replaceChildren();  // another method, other options
  sweepShown = sweep;
  const options = Object.fromEntries(sweep.options);
  const names = Object.keys(options);
  offer($("sweep-x"), names.map(name => [name, name]));
  const x = $("sweep-x").value;
  const rest = names.filter(name => name !== x);
  offer($("sweep-y"), [...rest.map(name => [name, name]), ["", "none (a line)"]]);
  const y = $("sweep-y").value, of = $("sweep-of").value, measure = Number($("sweep-measure").value);
  const axes = y ? [x, y] : [x];
  const plot = sweep.plots.find(each => each.options.length === axes.length && each.options.every(name => axes.includes(name)));
  const place = axes.map(name => plot.options.indexOf(name));
  const hover = point => `${axes.map((name, k) => `${plain(name)} = ${plain(options[name][point.at[place[k]]])}`).join("<br>")}<br><b>${fixed(point[of][measure], 2)}</b><br>${of === "best" ? plain(point.setting) + `, n = ${point.n}` : `median of ${point.settings} settings`}`;
  const title = {text: plain(x)}, measured = plain(sweep.measures[measure]);
  if (y) {
    const z = options[y].map(() => options[x].map(() => null)), texts = z.map(row => row.map(() => ""));
    for (const point of plot.points) {
      z[point.at[place[1]]][point.at[place[0]]] = point[of][measure];
      texts[point.at[place[1]]][point.at[place[0]]] = hover(point);
    }
    const digits = measured.includes("%") ? 1 : 2;
    show("sweep", [{type: "heatmap", x: options[x].map(plain), y: options[y].map(plain), z, text: z.map(row => row.map(value => value === null ? "" : fixed(value, digits))), texttemplate: "%{text}", hovertext: texts, hoverinfo: "text", colorscale: "Viridis", xgap: 2, ygap: 2, colorbar: {title: {text: measured}, thickness: 12, outlinewidth: 0}}],
      layoutOf({xaxis: {title, type: "category", showgrid: false}, yaxis: {title: {text: plain(y)}, type: "category", showgrid: false}}));
    return;
  }
  const bounds = plot.points.map(point => of === "best" ? point.bounds[measure] : null), values = plot.points.map(point => point[of][measure]);
  show("sweep", [{type: "scatter", x: plot.points.map(point => plain(options[x][point.at[0]])), y: values, mode: "lines+markers", text: plot.points.map(hover), hoverinfo: "text", line: {width: 2, color: "#D55E00"}, marker: {size: 10, color: "#D55E00"},
    error_y: bounds.every(Boolean) ? {type: "data", symmetric: false, array: bounds.map((b, k) => b[1] - values[k]), arrayminus: bounds.map((b, k) => values[k] - b[0]), thickness: 1.4, width: 4} : undefined}],
    layoutOf({xaxis: {title, type: "category", categoryarray: options[x].map(plain), categoryorder: "array"}, yaxis: {title: {text: measured}}}));
}

draws($("plane"), drawPlane);
draws($("differences"), drawDifferences);
draws($("cost"), drawCost);
draws($("learning"), drawLearning);
draws($("sweep"), drawSweep);

// the curves of the switch that is pointed at stand out
function highlight(group) {
  const plane = $("plane");
  if (!plane.data) return;
  const fades = each => group !== null && typeof each.meta === "number" && data.series[each.meta].group !== group;
  plane.querySelectorAll(".scatterlayer > .trace").forEach((trace, place) => { trace.style.opacity = fades(plane.data[place]) ? .12 : ""; });
}

all(".chip").forEach((chip, group) => {
  chip.addEventListener("mouseenter", () => highlight(isShown(group) ? group : null));
  chip.addEventListener("mouseleave", () => highlight(null));
});

restore();
update();
if (isRunning && saved.scroll) scrollTo(0, saved.scroll);

phone.addEventListener("change", () => update());
// on paper a plot has the width of the page, and a section fits on it
addEventListener("beforeprint", () => {
  all("details").forEach(each => { each.open = true; });
  for (const each of all(".plot")) {
    const height = each.classList.contains("tall") ? 340 : Math.min(each.clientHeight, each.id === "differences" ? 340 : 250);
    Plotly.relayout(each, {width: 1000, height});
  }
});
addEventListener("afterprint", () => all(".plot").forEach(each => Plotly.relayout(each, {width: null, height: null, autosize: true})));
