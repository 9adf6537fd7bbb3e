"use strict";
// Rows are drawn a page at a time; all text goes in as text, never as markup.
(() => {
  const ROWS_A_PAGE = 25;
  const { files, glyphs, rows, words } = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const number = new Intl.NumberFormat(document.documentElement.lang);
  const say = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => number.format(values[name]));
  let found = rows, page = 0;

  const text = (row) => (row.text ??= row.glyphs.map((glyph) => glyphs[glyph][0]).join("").toLowerCase());

  const draw = (row, wanted) => {
    const section = document.createElement("section"), head = document.createElement("h2");
    const body = document.createElement("p");
    head.textContent = `${files[row.file]}:${row.line} · ${say(words.row_head, row)}`;
    let start = 0, span = 0, hit = wanted ? text(row).indexOf(wanted) : -1;
    row.glyphs.forEach((glyph, place) => {
      const [shown, ids] = glyphs[glyph], mark = document.createElement("span");
      while (span < row.spans.length && place >= row.spans[span][1]) span += 1;
      const trained = span < row.spans.length && place >= row.spans[span][0];
      const end = start + shown.toLowerCase().length;
      while (hit >= 0 && hit + wanted.length <= start) hit = text(row).indexOf(wanted, hit + wanted.length);
      mark.className = (trained ? "t" : "u") + (hit >= 0 && hit < end ? " hit" : "");
      mark.title = ids;
      mark.textContent = shown.replaceAll("\n", "↵\n");
      body.append(mark);
      start = end;
    });
    section.append(head, body);
    return section;
  };

  const show = () => {
    const first = page * ROWS_A_PAGE, part = found.slice(first, first + ROWS_A_PAGE);
    const wanted = at("search").value.toLowerCase();
    at("rows").replaceChildren(...part.map((row) => draw(row, wanted)));
    if (!part.length) {
      const none = document.createElement("p");
      none.className = "none";
      none.textContent = words.none;
      at("rows").replaceChildren(none);
    }
    const range = { first: part.length ? first + 1 : 0, last: first + part.length, all: found.length };
    at("count").textContent = say(words.range, range);
    at("before").disabled = page === 0;
    at("after").disabled = first + ROWS_A_PAGE >= found.length;
  };

  const filter = () => {
    const wanted = at("search").value.toLowerCase(), file = at("file").value;
    const least = Number(at("least").value || 0), most = Number(at("most").value || Infinity);
    const order = Number(at("order").value);
    found = rows.filter((row) => (file === "" || row.file === Number(file))
      && row.num >= least && row.num <= most && (!wanted || text(row).includes(wanted)));
    if (order) found.sort((a, b) => order * (a.num - b.num));
    page = 0;
    show();
  };

  const turn = (pages) => {
    const last = Math.max(0, Math.ceil(found.length / ROWS_A_PAGE) - 1);
    const next = Math.min(last, Math.max(0, page + pages));
    if (next === page) return;
    page = next;
    show();
    scrollTo(0, 0);
  };

  files.forEach((name, index) => at("file").append(new Option(name, index)));
  at("file").hidden = files.length < 2;
  let waiting = 0;
  document.forms[0].addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  document.forms[0].addEventListener("submit", (event) => event.preventDefault());
  at("before").addEventListener("click", () => turn(-1));
  at("after").addEventListener("click", () => turn(1));
  document.addEventListener("keydown", (event) => {
    if (document.activeElement.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") { event.preventDefault(); at("search").focus(); }
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  filter();
})();
