"use strict";
// Draws the curves with uPlot; colours come from the page's style, so both themes work.
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const figures = [...document.querySelectorAll("[data-chart]")];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plots = new Map();

  function short(value) {
    if (value == null) return "–";
    if (value === 0) return "0";
    const size = Math.floor(Math.log10(Math.abs(value)));
    if (size < -3) return value.toExponential(1);
    if (size >= 4) return Math.round(value).toLocaleString("en");
    return String(Number(value.toFixed(Math.max(0, Math.min(4, 3 - size)))));
  }

  function seriesOptions(series) {
    const colour = css(`--c${series.colour % 8}`);
    const few = series.x.length < 60;
    const dots = series.style === "dots";
    return {
      label: series.label,
      stroke: series.style === "faint" ? `color-mix(in srgb, ${colour} 32%, transparent)` : colour,
      width: series.style === "faint" ? 1 : 2,
      dash: series.style === "dashed" ? [6, 4] : undefined,
      points: { show: (dots && few) || series.x.length === 1, size: 7, fill: css("--sheet"), stroke: colour, width: 2 },
      spanGaps: true,
      value: (plot, value) => value == null ? "" : short(value),
    };
  }

  function axis(more) {
    return {
      stroke: css("--faint"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: css("--line"), width: 1 },
      ticks: { show: false },
      ...more,
    };
  }

  function draw(figure) {
    const spec = specs[Number(figure.dataset.chart)];
    const box = figure.querySelector(".plot");
    const log = figure.querySelector("[data-log]")?.checked ?? false;
    plots.get(figure)?.destroy();
    const tables = spec.series.map((series) => [series.x, series.y]);
    const plot = new uPlot({
      width: box.clientWidth,
      height: spec.wide ? 320 : 200,
      cursor: { sync: { key: "steps" }, drag: { x: true, y: false }, points: { size: 7 } },
      scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
      axes: [
        axis({ size: 32, values: (u, ticks) => ticks.map((tick) => Number.isInteger(tick) ? tick.toLocaleString("en") : "") }),
        axis({ size: 58, values: (u, ticks) => ticks.map((tick) => tick == null ? "" : short(tick)) }),
      ],
      series: [{ label: spec.xlabel, value: (u, value) => value == null ? "" : String(value) }, ...spec.series.map(seriesOptions)],
      legend: { live: true, markers: { width: 0, fill: (u, at) => u.series[at]._stroke ?? u.series[at].stroke() } },
      hooks: { setCursor: [(u) => u.root.classList.toggle("read", u.cursor.idx != null)] },
    }, uPlot.join(tables), box);
    plots.set(figure, plot);
  }

  function drawAll() { figures.forEach(draw); }

  figures.forEach((figure) => {
    figure.querySelector("[data-log]")?.addEventListener("change", () => draw(figure));
  });
  new ResizeObserver(() => {
    for (const [figure, plot] of plots) {
      const width = figure.querySelector(".plot").clientWidth;
      if (width !== plot.width) plot.setSize({ width, height: plot.height });
    }
  }).observe(document.querySelector("main"));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", drawAll);
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    drawAll();
  });
  drawAll();
})();
