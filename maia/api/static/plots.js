// Draws curves by uPlot, in the page's colours, and again when these or the width change.
"use strict";

(() => {
  const HEIGHT = 340;
  const HOURS = [1, 2, 3, 6, 12, 24, 48, 72, 168, 336, 720, 2160, 8760];
  const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faint = (name, part) => `color-mix(in srgb, ${colour(name)} ${part}%, transparent)`;

  // The same words as maia.views.figures.compact.
  function compact(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    const sign = value < 0 ? "−" : "";
    const figures = (x) => (x >= 99.95 ? x.toFixed(0) : String(Number(x.toFixed(x >= 9.995 ? 1 : 2))));
    if (size >= 0.9995e15) return sign + size.toPrecision(3).replace(/\.?0+e/, "e");
    for (const [unit, letter] of UNITS) {
      if (size >= unit * 0.9995) return sign + figures(size / unit) + letter;
    }
    return sign + figures(size);
  }

  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

  // Hours, or at midnight the day; in a long plot the year too.
  function instants(plot, ticks) {
    const isLong = plot.scales.x.max - plot.scales.x.min > 300 * 86400;
    return ticks.map((tick) => {
      const at = new Date(tick * 1000);
      if (tick % 86400) return at.toISOString().slice(11, 16);
      return isLong ? at.toISOString().slice(0, 10) : `${at.getUTCDate()} ${MONTHS[at.getUTCMonth()]}`;
    });
  }

  const day = (x) => new Date(x * 1000).toISOString().slice(0, 16).replace("T", " ");
  const age = (x) => (x < 72 ? `${Number(x.toFixed(1))} h` : `${Number((x / 24).toFixed(1))} d`);

  function axis(scale, label, more) {
    return {
      scale, label, stroke: colour("--ink-soft"), labelSize: 18, size: 54,
      grid: { stroke: faint("--rule", 80), width: 1 }, ticks: { stroke: colour("--rule"), width: 1 },
      values: (_, ticks) => ticks.map(compact), ...more,
    };
  }

  function line(label, name, more) {
    return { label, stroke: colour(name), width: 2, spanGaps: true, value: (_, v) => compact(v), ...more };
  }

  const from0 = { range: (_, low, high) => [Math.min(low ?? 0, 0), (high || 1) * 1.05] };
  const inTime = { tzDate: (ts) => uPlot.tzDate(new Date(ts * 1e3), "Etc/UTC") };

  function ofVideo(values) {
    const tables = [[values.at_s, values.views, values.velocity]];
    const series = [
      { label: "at", value: (_, x) => (x === null ? "–" : day(x)) },
      line("views", "--c0", { scale: "views", points: { show: values.at_s.length < 60 } }),
      line("views per hour", "--c1", { scale: "velocity", width: 1.5, points: { show: false } }),
    ];
    const bands = [];
    if (values.band) {
      const band = values.band;
      tables.push([band.at_s, band.low, band.median, band.high]);
      const edge = { scale: "views", stroke: "transparent", points: { show: false } };
      series.push(
        line("low", "--c0", edge),
        line("expected", "--c0", { scale: "views", dash: [6, 5], points: { show: true } }),
        line("high", "--c0", edge),
      );
      bands.push({ series: [5, 3], fill: faint("--c0", 18) });
    }
    return {
      data: tables.length > 1 ? uPlot.join(tables) : tables[0],
      options: {
        ...inTime, series, bands,
        scales: { views: { auto: true }, velocity: from0 },
        axes: [
          axis("x", undefined, { values: instants, size: 34 }),
          axis("views", "views"),
          axis("velocity", "views per hour", { side: 1, grid: { show: false } }),
        ],
        hooks: { draw: [(plot) => mark(plot, values.breakouts_s)] },
      },
    };
  }

  function mark(plot, instants) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colour("--bad");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const at of instants) {
      const x = Math.round(plot.valToPos(at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  function ofComparison(curves, scale) {
    const views = scale === "log" ? { distr: 3 } : from0;
    const shown = curves.filter((curve) => curve.age_h.length);
    return {
      data: shown.length ? uPlot.join(shown.map((curve) => [curve.age_h, curve.views])) : [[], []],
      options: {
        series: [
          { label: "age", value: (_, x) => (x === null ? "–" : age(x)) },
          ...shown.map((curve) => line(
            (curve.title || curve.id).slice(0, 40), `--c${curves.indexOf(curve)}`,
            { scale: "views", points: { show: curve.age_h.length < 40 } },
          )),
        ],
        scales: { x: { time: false }, views },
        axes: [
          axis("x", "age", { values: (_, ticks) => ticks.map(age), incrs: HOURS, size: 34 }),
          axis("views", "views", { values: (_, ticks) => ticks.map((tick) => (tick === null ? null : compact(tick))) }),
        ],
      },
    };
  }

  function ofChannel(values) {
    return {
      data: [values.at_s, values.subscribers, values.views],
      options: {
        ...inTime,
        series: [
          { label: "at", value: (_, x) => (x === null ? "–" : day(x)) },
          line("subscribers", "--c0", { scale: "subscribers" }),
          line("views", "--c1", { scale: "views" }),
        ],
        axes: [
          axis("x", undefined, { values: instants, size: 34 }),
          axis("subscribers", "subscribers"),
          axis("views", "views", { side: 1, grid: { show: false } }),
        ],
      },
    };
  }

  const KINDS = { video: ofVideo, compare: ofComparison, channel: ofChannel };

  function draw(place) {
    const { data, options } = KINDS[place.dataset.plot](JSON.parse(place.dataset.values), place.dataset.scale);
    const narrow = place.clientWidth < 560;
    for (const each of options.axes) {
      if (narrow && each.label) Object.assign(each, { label: undefined, size: 44 });
    }
    place.replaceChildren();
    return new uPlot({ width: place.clientWidth, height: HEIGHT, ...options }, data, place);
  }

  for (const place of document.querySelectorAll("[data-plot]")) {
    let plot = draw(place);
    const again = () => {
      plot.destroy();
      plot = draw(place);
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    let width = place.clientWidth;
    new ResizeObserver(() => {
      if (place.clientWidth === width) return;
      width = place.clientWidth;
      again();
    }).observe(place);
  }
})();
