"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // --- the view: what is filtered and sorted, and its address ----------------------------
  // "#rules?game=ipd&sort=return&order=descending": a section, then what differs from the page as it comes.

  const forms = all("form[data-filters]");
  const boards = all("table.board");
  const choices = forms.flatMap((form) => all("select", form));
  const sorting = { column: "", order: "" };
  const nameOf = (th) => th.dataset.name;
  const current = () => boards.find((b) => !b.closest(".scroll").hidden);

  for (const board of boards) {
    for (const th of all("thead th", board)) {
      th.dataset.name = th.textContent;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...th.childNodes);
      th.append(button);
      button.addEventListener("click", () => {
        const first = { higher: "descending", lower: "ascending", text: "ascending" }[th.dataset.best];
        const again = th.getAttribute("aria-sort");
        const order = !again ? first : again === "ascending" ? "descending" : "ascending";
        Object.assign(sorting, { column: nameOf(th), order });
        show();
        remember("rules");
      });
    }
    [...board.tBodies[0].rows].forEach((row, k) => (row.dataset.place = k));
  }

  function sortBoard(board) {
    const heads = all("thead th", board);
    let k = heads.findIndex((th) => nameOf(th) === sorting.column);
    heads.forEach((th) => th.removeAttribute("aria-sort"));
    const rows = [...board.tBodies[0].rows];
    const placed = (row) => Number(row.dataset.place);
    if (k < 0) {
      rows.sort((a, b) => placed(a) - placed(b));
    } else {
      heads[k].setAttribute("aria-sort", sorting.order);
      const sign = sorting.order === "descending" ? -1 : 1;
      const value = (row) => (row.cells[k].dataset.value === undefined ? NaN : Number(row.cells[k].dataset.value));
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        // What has no number comes last in either order.
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || placed(a) - placed(b);
        return sign * (x - y) || placed(a) - placed(b);
      });
    }
    board.tBodies[0].append(...rows);
  }

  const LEVELS = ["actions", "rewards", "gradients", "simulator"];

  function show() {
    const chosen = Object.fromEntries(choices.map((s) => [s.name, s.value]));
    const game = chosen.game ?? boards[0]?.dataset.game;
    for (const board of boards) board.closest(".scroll").hidden = board.dataset.game !== game;
    const board = current();
    if (board) {
      sortBoard(board);
      const rows = [...board.tBodies[0].rows];
      for (const row of rows) {
        const level = LEVELS.indexOf(row.dataset.access);
        const seen = !chosen.access || (level >= 0 && level <= LEVELS.indexOf(chosen.access));
        const paid = !chosen.preparation || Number(row.dataset.preparation) <= Number(chosen.preparation);
        row.hidden = !(seen && paid);
      }
      count("rules", rows, "learners");
    }
    const claims = all(".claims tbody tr");
    for (const row of claims) row.hidden = Boolean(chosen.verdict) && row.dataset.verdict !== chosen.verdict;
    for (const paper of all("details.paper")) {
      const left = all("tbody tr", paper).some((row) => !row.hidden);
      paper.hidden = !left;
      if (chosen.verdict) paper.open = left;
    }
    count("claims", claims, "numbers");
  }

  function count(section, rows, noun) {
    const output = document.querySelector(`[data-filters=${section}] output`);
    if (output) output.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} ${noun}`;
  }

  function remember(section) {
    const state = new URLSearchParams();
    for (const select of choices) if (select.value !== select.options[0].value) state.set(select.name, select.value);
    if (sorting.column) {
      state.set("sort", sorting.column);
      state.set("order", sorting.order);
    }
    const text = state.toString();
    history.replaceState(null, "", `#${section}${text && "?" + text}`);
  }

  function restore(text) {
    const state = new URLSearchParams(text);
    for (const select of choices) {
      const wanted = state.get(select.name) ?? select.options[0].value;
      select.value = [...select.options].some((o) => o.value === wanted) ? wanted : select.options[0].value;
    }
    sorting.column = state.get("sort") ?? "";
    sorting.order = state.get("order") === "descending" ? "descending" : "ascending";
  }

  for (const form of forms) {
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => {
      show();
      remember(form.dataset.filters);
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      for (const select of all("select", form)) select.selectedIndex = 0;
      if (form.dataset.filters === "rules") sorting.column = "";
      show();
      remember(form.dataset.filters);
    });
  }

  // --- where a link leads ------------------------------------------------------------------

  function arrive() {
    const [name, state] = decodeURIComponent(location.hash.slice(1)).split("?");
    if (state !== undefined) {
      restore(state);
      show();
    }
    const target = name && document.getElementById(name);
    if (!target) return;
    // Newer browsers do this themselves.
    for (let x = target.parentElement; x; x = x.parentElement) if (x.tagName === "DETAILS") x.open = true;
    target.scrollIntoView();
    if (target.tagName === "DIV") target.focus({ preventScroll: true });
  }

  addEventListener("hashchange", arrive);
  // A link to where one already is changes nothing in the address, but shall still open.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='#']");
    if (link && link.getAttribute("href") === location.hash) arrive();
  });
  addEventListener("beforeprint", () => all(".scroll").forEach((x) => (x.scrollLeft = 0)));

  show();
  arrive();

  // --- commands ----------------------------------------------------------------------------

  if (navigator.clipboard) {
    document.addEventListener("toggle", (event) => {
      for (const pre of all(".cell[open] pre", event.target)) {
        if (pre.previousElementSibling?.matches(".copy")) continue;
        const button = document.createElement("button");
        Object.assign(button, { type: "button", className: "copy", textContent: "Copy" });
        button.addEventListener("click", async () => {
          await navigator.clipboard.writeText(pre.textContent);
          button.textContent = "Copied";
        });
        pre.before(button);
      }
    }, true);
  }

  // --- where one is ------------------------------------------------------------------------

  const links = new Map(all("nav a").map((a) => [a.getAttribute("href").slice(1), a]));
  const visible = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const e of entries) visible[e.isIntersecting ? "add" : "delete"](e.target.id);
    const first = [...links.keys()].find((id) => visible.has(id));
    for (const [id, a] of links) {
      if (id !== first) a.removeAttribute("aria-current");
      else if (!a.hasAttribute("aria-current")) {
        a.setAttribute("aria-current", "true");
        const list = a.closest("ul");
        list.scrollLeft = a.offsetLeft - list.offsetLeft - list.clientWidth / 2 + a.offsetWidth / 2;
      }
    }
  }, { rootMargin: "-60px 0px -55% 0px" });
  for (const id of links.keys()) watcher.observe(document.getElementById(id));

  // --- episodes ----------------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";
  const signed = (x) => (x > 0 ? "+" : x < 0 ? "\u2212" : "") + Math.abs(Math.round(x * 100) / 100);

  for (const root of all(".episode")) {
    const episodes = JSON.parse(root.querySelector("script").textContent);
    const find = (selector) => root.querySelector(selector);
    const [which, range, output, play] = ["select", "input", "output", "[data-do=play]"].map(find);
    const board = find(".board");
    const square = Number(board.dataset.square);
    const totals = all(".key .paid", root);
    const holdings = all(".key .holds", root);
    const layer = (name) => find(`.board .${name}`);
    let episode = episodes[0];
    let step = 0;
    let timer = 0;

    const TURNS = { N: 0, E: 90, S: 180, W: 270 };
    const place = (row, column) => `translate(${(column + 0.5) * square}px, ${(row + 0.5) * square}px)`;

    function made(name, attributes, ...children) {
      const element = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      element.append(...children);
      return element;
    }

    function piece([name, row, column, facing]) {
      const glyph = episode.legend[name];
      const player = glyph.player !== undefined;
      const group = made("g", { class: `${player ? "player" : "thing"} ${glyph.shape} t${glyph.colour}` });
      group.append(made("path", { d: glyph.path }));
      if (player) group.append(made("text", { "text-anchor": "middle", y: 4 }, String(glyph.player + 1)));
      if (facing) {
        const turned = `rotate(${TURNS[facing]})`;
        group.append(made("path", { class: "facing", d: board.dataset.facing, transform: turned }));
      }
      group.style.transform = place(row, column);
      return group;
    }

    function outline([player, top, left, rows, columns]) {
      const [x, y, width, height] = [left, top, columns, rows].map((n) => n * square);
      return made("path", { class: `window t${player % 5}`, d: `M${x} ${y}h${width}v${height}h-${width}z` });
    }

    // The pieces of the page without scripts have no names by which the next frame would know them.
    layer("players").replaceChildren();
    const isPlayer = ([name]) => episode.legend[name].player !== undefined;

    function draw() {
      const frame = episode.frames[step];
      const before = new Map((episode.frames[step - 1] ?? frame).pieces.filter(isPlayer).map((x) => [x[0], x]));
      const standing = new Map([...layer("players").children].map((x) => [x.dataset.glyph, x]));
      for (const now of frame.pieces.filter(isPlayer)) {
        const [name, row, column] = now;
        const fresh = piece(now);
        const was = before.get(name) ?? now;
        // An element that stays glides; taken out and put back it would not.
        const group = standing.get(name) ?? fresh;
        if (group === fresh) layer("players").append(fresh);
        else group.replaceChildren(...fresh.children);
        standing.delete(name);
        group.dataset.glyph = name;
        // Off one edge and in at the other is a step too, but no glide over the board.
        const near = Math.abs(row - was[1]) <= 1 && Math.abs(column - was[2]) <= 1;
        group.classList.toggle("moves", near);
        group.style.transform = place(row, column);
      }
      for (const gone of standing.values()) gone.remove();
      layer("things").replaceChildren(...frame.pieces.filter((x) => !isPlayer(x)).map(piece));
      layer("cells").replaceChildren(...(frame.cells ?? []).flatMap((line, row) =>
        [...line].flatMap((name, column) => (name === "." ? [] : [piece([name, row, column])]))));
      layer("windows").replaceChildren(...(frame.windows ?? []).map(outline));
      holdings.forEach((x, k) => {
        const held = Object.entries(frame.inventories?.[k] ?? {}).map(([name, amount]) => `${name} ${amount}`);
        x.textContent = held.length ? `; holds ${held.join(", ")}` : "";
      });
      const done = episode.frames.slice(0, step + 1);
      totals.forEach((x, k) => (x.textContent = `: ${signed(done.reduce((sum, f) => sum + f.rewards[k], 0))} in all`));
      const paid = episode.learners.map((who, k) => `${who} ${signed(frame.rewards[k])}`);
      output.textContent = `Step ${step} of ${episode.frames.length - 1}: ${paid.join(", ")}`;
      range.value = step;
      range.setAttribute("aria-valuetext", `step ${step} of ${episode.frames.length - 1}`);
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
      play.setAttribute("aria-label", "Play");
      // Announced when stepped, not sixteen times a minute while it plays.
      output.setAttribute("aria-live", "polite");
    }

    function start() {
      if (step === episode.frames.length - 1) step = 0;
      play.textContent = "Pause";
      play.setAttribute("aria-label", "Pause");
      output.setAttribute("aria-live", "off");
      draw();
      timer = setInterval(() => {
        if (step < episode.frames.length - 1) go(step + 1);
        if (step === episode.frames.length - 1) stop();
      }, 450);
    }

    function go(to) {
      step = Math.max(0, Math.min(to, episode.frames.length - 1));
      draw();
    }

    function choose() {
      stop();
      episode = episodes[which.value];
      range.max = episode.frames.length - 1;
      all(".key .who", root).forEach((x, k) => (x.textContent = episode.learners[k]));
      board.setAttribute("aria-label", `Board of the episode, ${episode.title}`);
      find(".of").href = episode.cell;
      go(0);
    }

    const actions = {
      play: () => (timer ? stop() : start()),
      back: () => (stop(), go(step - 1)),
      forward: () => (stop(), go(step + 1)),
      first: () => (stop(), go(0)),
      last: () => (stop(), go(Infinity)),
    };
    for (const button of all("[data-do]", root)) button.addEventListener("click", () => actions[button.dataset.do]());
    range.addEventListener("input", () => (stop(), go(Number(range.value))));
    which.addEventListener("change", choose);
    const keys = { " ": "play", ArrowLeft: "back", ArrowRight: "forward", Home: "first", End: "last" };
    root.addEventListener("keydown", (event) => {
      // Where a control has a meaning of its own for a key, that stays.
      const own = event.target.matches("select, input, a") || (event.key === " " && event.target.matches("button"));
      const action = actions[keys[event.key]];
      if (!action || (own && !(event.key === " " && event.target === range))) return;
      event.preventDefault();
      action();
    });
    find(".controls").hidden = find(".of").hidden = false;
    which.closest("label").hidden = episodes.length < 2;
    choose();
  }
})();
