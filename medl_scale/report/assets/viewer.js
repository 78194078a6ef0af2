// The what-if viewer: fills the form, the images and the table from the packed data of this page.
// Names given by users reach the page as text and attributes only, never as HTML.
(() => {
  "use strict";

  const ROWS_SHOWN = 15;
  const MISSING = -32768;
  const ADDRESS = "#what-if?";
  const SVG = "http://www.w3.org/2000/svg";
  const root = document.getElementById("medl-viewer");
  const part = (name) => document.getElementById(`medl-viewer-${name}`);

  function fail(sentence) {
    part("message").textContent = sentence;
    part("message").hidden = false;
    part("body").hidden = true;
    root.setAttribute("aria-busy", "false");
  }
  if (typeof DecompressionStream !== "function") {
    fail("This browser cannot unpack the viewer's data. Open the page in a current version of "
      + "Chrome, Edge, Firefox or Safari (2023 or later).");
    return;
  }

  const data = JSON.parse(part("data").textContent);
  const nGenes = data.genes.length;
  const [nRows, nColumns] = data.shape;
  const geneAt = new Int32Array(nRows * nColumns).fill(-1); // by pixel
  data.pixels.forEach((pixel, gene) => { geneAt[pixel] = gene; });
  const geneOf = new Map(data.genes.map((name, gene) => [name, gene]));
  const labels = [...new Set(data.cells.map((cell) => cell.label))];

  const state = { cell: 0, target: null, gene: null, order: "sure" };
  let numbers = null; // of the chosen cell
  let current = null; // what is shown of it: its numbers under the target, and the genes of the table
  let pointed = null; // the gene under the pointer

  // Names. A target is a position in data.targets, or null: an own batch that is not among them.

  const isAverage = (target) => data.average && target === data.targets.length - 1;
  const nameOf = (target) => (target === null ? data.cells[state.cell].batch : data.targets[target]);
  const inWords = (target) => (isAverage(target) ? "the average batch" : nameOf(target));
  function ownTarget(cell) {
    const place = data.targets.indexOf(data.cells[cell].batch);
    return place < 0 || isAverage(place) ? null : place;
  }
  const isOwn = (target) => target === null || target === ownTarget(state.cell);

  // Numbers: how they are packed is told in report/viewer_data.py.

  const unpacked = new Map();
  function unpack(cell) {
    if (!unpacked.has(cell)) {
      const bytes = Uint8Array.from(atob(data.cells[cell].numbers), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      unpacked.set(cell, new Response(stream).arrayBuffer().then((buffer) => {
        const planes = new Uint8Array(buffer);
        const n = planes.length / 2;
        return Int16Array.from({ length: n }, (_, i) => planes[i] | (planes[n + i] << 8));
      }));
    }
    return unpacked.get(cell);
  }

  function read(target) {
    const [moves, low, high] = [0, 1, 2].map((which) => (2 + 3 * target + which) * nGenes);
    const steps = (place) => (isOwn(target) ? 0 : numbers[place]);
    return {
      measured: (gene) => numbers[gene] * data.step,
      own: (gene) => numbers[nGenes + gene] * data.step,
      asIf: (gene) => (numbers[nGenes + gene] + steps(moves + gene)) * data.step,
      move: (gene) => steps(moves + gene) * data.step,
      ends: (gene) => (steps(low + gene) === MISSING
        ? null
        : [low, high].map((end) => (steps(moves + gene) + steps(end + gene)) * data.step)),
    };
  }

  const isSure = (ends) => ends !== null && (ends[0] > 0 || ends[1] < 0);
  function scoreOf(view, gene) {
    const size = Math.abs(view.move(gene));
    if (state.order === "size") return size;
    const ends = view.ends(gene);
    if (ends === null) return -Infinity;
    if (state.order === "ratio") return size / Math.max(ends[1] - ends[0], data.step);
    return Math.max(ends[0], -ends[1]);
  }
  function genesThatMove(view) {
    const scores = data.genes.map((_, gene) => scoreOf(view, gene));
    const genes = [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b);
    return genes.slice(0, ROWS_SHOWN);
  }

  // Words.

  const decimals = Math.max(0, Math.round(-Math.log10(data.step)));
  const percent = `${+(100 * data.level).toFixed(1)} %`;
  const whole = (n) => n.toLocaleString("en-US");
  function plain(value, digits = decimals) {
    const text = value.toFixed(digits);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
  }
  const signed = (value, digits = decimals) => {
    const text = plain(value, digits);
    return value > 0 && Number(text) !== 0 ? `+${text}` : text;
  };
  const span = (ends, digits) => (ends === null ? "none kept" : ends.map((end) => signed(end, digits)).join(" to "));

  function sentence({ view, top }) {
    const cell = data.cells[state.cell];
    if (isOwn(state.target)) {
      return `${cell.batch} is this cell's own batch: shown is its reconstruction, and nothing would differ.`;
    }
    const where = isAverage(state.target) ? "Without any batch's effects" : `In ${nameOf(state.target)}`;
    const sure = top.filter((gene) => isSure(view.ends(gene))).slice(0, 3);
    if (!sure.length) {
      return `${where}, none of these genes of this cell (${cell.label}) would surely differ: their intervals hold 0.`;
    }
    const parts = sure.map((gene, place) => {
      const move = view.move(gene);
      const ends = view.ends(gene).map(Math.abs).sort((a, b) => a - b);
      const interval = `${place ? "" : `${percent} interval `}${plain(ends[0], 2)} to ${plain(ends[1], 2)}`;
      return `${plain(Math.abs(move), 2)} ${move > 0 ? "more" : "less"} of ${data.genes[gene]} (${interval})`;
    });
    const listed = parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}` : parts[0];
    const known = data.genes.map((_, gene) => view.ends(gene)).filter((ends) => ends !== null);
    const among = known.length < nGenes ? `the ${whole(known.length)} genes that move most` : `${whole(nGenes)} genes`;
    return `${where}, this cell (${cell.label}) would express ${listed}. `
      + `Of ${among}, ${whole(known.filter(isSure).length)} have an interval without 0.`;
  }

  // Elements.

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }
  const on = (element, type, action) => {
    element.addEventListener(type, action);
    return element;
  };
  const spans = (texts) => texts.map((text) => make("span", {}, text));

  // Colours.

  const SEQUENTIAL = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
  const DIVERGING = {
    light: ["#083d77", "#2f7ab8", "#9cc7e4", "#f6f6f4", "#f2b68f", "#d2622a", "#7f2704"],
    dark: ["#b5deff", "#58a6e8", "#28537c", "#20252b", "#7d4322", "#ea8145", "#ffd9bb"],
  };
  function table(stops) {
    const anchors = stops.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    return Array.from({ length: 256 }, (_, i) => {
      const at = (i / 255) * (anchors.length - 1);
      const low = Math.min(Math.floor(at), anchors.length - 2);
      return anchors[low].map((c, k) => Math.round(c + (at - low) * (anchors[low + 1][k] - c)));
    });
  }
  const sequential = table(SEQUENTIAL);
  let diverging = table(DIVERGING.light);
  function isDark() {
    const [r, g, b] = getComputedStyle(root).backgroundColor.match(/[\d.]+/g).map(Number);
    return 0.299 * r + 0.587 * g + 0.114 * b < 128;
  }
  const within = (place) => Math.max(0, Math.min(255, Math.round(place)));
  const ofValue = (value) => sequential[within((255 * value) / data.high)];
  const ofMove = (move) => diverging[within(127.5 + (127.5 * move) / data.reach)];

  function paint(canvas, colourOf) {
    const context = canvas.getContext("2d");
    const image = context.createImageData(nColumns, nRows);
    geneAt.forEach((gene, pixel) => {
      // Pixels without a gene stay clear.
      if (gene >= 0) image.data.set([...colourOf(gene), 255], 4 * pixel);
    });
    context.putImageData(image, 0, 0);
  }
  const sheet = () => make("canvas", { width: nColumns, height: nRows, "aria-hidden": "true" });

  function showBars() {
    const scales = [
      ["values", ofValue, 0, data.high, ["0 or less", `${plain(data.high, 1)} or more`]],
      ["moves", ofMove, -data.reach, data.reach, [`${plain(-data.reach, 2)} or less`, "0", `${signed(data.reach, 2)} or more`]],
    ];
    for (const [name, colourOf, low, high, texts] of scales) {
      const context = part(`bar-${name}`).getContext("2d");
      const line = context.createImageData(256, 1);
      for (let i = 0; i < 256; i += 1) line.data.set([...colourOf(low + ((high - low) * i) / 255), 255], 4 * i);
      context.putImageData(line, 0, 0);
      part(`ends-${name}`).replaceChildren(...spans(texts));
    }
  }

  // Images.

  const magnified = Math.max(2, Math.ceil(480 / Math.max(nColumns, nRows)));
  const images = ["measured", "own", "asIf", "move"].map((key) => {
    const caption = make("figcaption");
    const canvas = make("canvas", {
      id: `medl-viewer-image-${key}`, role: "img", tabindex: 0, "aria-describedby": "medl-viewer-hint",
      width: nColumns * magnified, height: nRows * magnified,
    });
    on(canvas, "pointermove", (event) => point(geneUnder(canvas, event)));
    on(canvas, "pointerleave", () => point(null));
    on(canvas, "click", (event) => keep(geneUnder(canvas, event)));
    on(canvas, "keydown", walk);
    part("images").append(make("figure", {}, caption, canvas));
    return { key, caption, canvas, sheet: sheet() };
  });

  const geneIn = (row, column) => {
    const isInside = row >= 0 && row < nRows && column >= 0 && column < nColumns;
    return isInside && geneAt[row * nColumns + column] >= 0 ? geneAt[row * nColumns + column] : null;
  };
  function geneUnder(canvas, event) {
    const share = (at, start, length) => (at - start - canvas.clientLeft) / length;
    const box = canvas.getBoundingClientRect();
    return geneIn(Math.floor(nRows * share(event.clientY, box.top, canvas.clientHeight)),
      Math.floor(nColumns * share(event.clientX, box.left, canvas.clientWidth)));
  }

  const WAYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  function walk(event) {
    const way = WAYS[event.key];
    if (!way || !current || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    pointed = null;
    let gene = state.gene;
    for (let left = event.shiftKey ? 5 : 1; left > 0; left -= 1) {
      const pixel = data.pixels[gene];
      gene = geneIn(Math.floor(pixel / nColumns) + way[0], (pixel % nColumns) + way[1]) ?? gene;
    }
    keep(gene);
  }

  function drawImages() {
    const ink = getComputedStyle(root).color;
    for (const image of images) {
      const context = image.canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.clearRect(0, 0, image.canvas.width, image.canvas.height);
      context.drawImage(image.sheet, 0, 0, image.canvas.width, image.canvas.height);
      if (image.key === "move" && !isOwn(state.target)) {
        for (const gene of current.top) outline(context, gene, 1, [ink]);
      }
      outline(context, pointed ?? state.gene, 3, ["#000000", "#ffffff"]);
    }
  }
  function outline(context, gene, width, colours) {
    const x = (data.pixels[gene] % nColumns) * magnified;
    const y = Math.floor(data.pixels[gene] / nColumns) * magnified;
    colours.forEach((colour, ring) => {
      const grown = width * (ring + 0.5);
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.strokeRect(x - grown, y - grown, magnified + 2 * grown, magnified + 2 * grown);
    });
  }

  function showImages({ view }) {
    const cell = data.cells[state.cell];
    const own = isOwn(state.target);
    const captions = {
      measured: ["Measured", cell.name],
      own: ["Own batch", `${cell.batch}, reconstructed`],
      asIf: ["As if", `${inWords(state.target)}${own ? ", the own batch" : ""}`],
      move: ["Difference", own ? "none: the same batch" : `${inWords(state.target)} − ${cell.batch}`],
    };
    for (const { key, caption, sheet: unmarked } of images) {
      const [title, below] = captions[key];
      caption.replaceChildren(title, make("span", {}, below));
      paint(unmarked, (gene) => (key === "move" ? ofMove : ofValue)(view[key](gene)));
    }
  }

  const thumbs = data.targets.map((name, target) => {
    const input = make("input", { type: "radio", name: "medl-viewer-target", value: target });
    const [canvas, text] = [sheet(), make("span")];
    on(input, "change", () => choose({ target }));
    part("strip").append(make("label", { title: name }, input, canvas, text));
    return { input, canvas, text };
  });
  function showStrip() {
    thumbs.forEach(({ input, canvas, text }, target) => {
      const view = read(target);
      input.checked = target === state.target;
      text.replaceChildren(nameOf(target), ...(isOwn(target) ? [make("b", {}, "own batch")] : []));
      paint(canvas, (gene) => ofMove(view.move(gene)));
    });
  }

  // One gene: marked in the images, read out, and marked in the table.

  function point(gene) {
    if (gene === pointed || !current) return;
    pointed = gene;
    drawImages();
    showGene();
  }
  function keep(gene) {
    if (gene === null || !current) return;
    state.gene = gene;
    drawImages();
    showGene();
    markRow();
    remember();
  }
  function showGene() {
    const gene = pointed ?? state.gene;
    const { view } = current;
    const cell = data.cells[state.cell];
    const values = {
      gene: data.genes[gene],
      measured: plain(view.measured(gene)),
      "own batch": plain(view.own(gene)),
      "as if": plain(view.asIf(gene)),
      difference: signed(view.move(gene)),
      [`${percent} interval`]: span(view.ends(gene)),
    };
    part("reading").replaceChildren(...Object.entries(values).map(([title, value]) => make(
      "span", { "data-of": title }, make("small", {}, `${title} `),
      make(title === "gene" ? "strong" : "span", {}, value), " ",
    )));
    const spoken = {
      measured: "as measured, brighter is more",
      own: `reconstructed under its own batch ${cell.batch}, brighter is more`,
      asIf: `as if from ${inWords(state.target)}, brighter is more`,
      move: `difference between ${inWords(state.target)} and its own batch ${cell.batch}`,
    };
    for (const { key, canvas } of images) {
      canvas.setAttribute("aria-label", `${cell.name} (${cell.label}) ${spoken[key]}. Image of ${whole(nGenes)} genes, `
        + `one a pixel. Marked: ${data.genes[gene]}, ${(key === "move" ? signed : plain)(view[key](gene))}.`);
    }
  }
  function markRow() {
    for (const row of part("rows").rows) {
      if (Number(row.dataset.gene) === state.gene) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  function showTable({ view, top }) {
    const most = Math.max(data.step, ...top.flatMap((gene) => [view.move(gene), ...(view.ends(gene) ?? [])]).map(Math.abs));
    part("axis").replaceChildren(make("span", { class: "medl-viewer-axis" },
      ...spans([plain(-most, 2), "0", signed(most, 2)])));
    part("rows").replaceChildren(...top.map((gene) => {
      const name = data.genes[gene];
      const ends = view.ends(gene);
      const button = make("button", { type: "button", title: `Mark ${name} in the images` }, name);
      const texts = [plain(view.own(gene), 2), plain(view.asIf(gene), 2), signed(view.move(gene), 2), span(ends, 2)];
      return make("tr", { "data-gene": gene, class: isSure(ends) ? "" : "medl-viewer-unsure" },
        make("th", { scope: "row" }, on(button, "click", () => keep(gene))),
        ...texts.map((text) => make("td", {}, text)),
        make("td", {}, interval(view.move(gene), ends, most)));
    }));
    markRow();
  }
  function interval(move, ends, most) {
    const drawing = document.createElementNS(SVG, "svg");
    const place = (value) => `${50 + (48 * value) / most}%`;
    const add = (tag, name, attributes) => {
      const shape = document.createElementNS(SVG, tag);
      shape.setAttribute("class", `medl-viewer-${name}`);
      for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
      drawing.append(shape);
    };
    drawing.setAttribute("aria-hidden", "true");
    add("line", "zero", { x1: "50%", x2: "50%", y1: 0, y2: "100%" });
    if (ends) add("line", "reach", { x1: place(ends[0]), x2: place(ends[1]), y1: "50%", y2: "50%" });
    add("circle", "dot", { cx: place(move), cy: "50%", r: 3.5 });
    return drawing;
  }

  // Choices.

  function fill(select, options, chosen) {
    select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
    select.value = chosen;
  }
  const cellsOf = (label) => [...data.cells.keys()].filter((cell) => data.cells[cell].label === label);
  function showChoices() {
    const { label, batch } = data.cells[state.cell];
    const ofOwn = (name) => `${name} (own batch)`;
    const targets = data.targets.map((name, target) => {
      if (isAverage(target)) return [target, "average: no batch's effects"];
      return [target, isOwn(target) ? ofOwn(name) : name];
    });
    if (ownTarget(state.cell) === null) targets.unshift(["own", ofOwn(batch)]);
    fill(part("label"), [...labels.entries()], labels.indexOf(label));
    fill(part("cell"), cellsOf(label).map((cell) => [cell, `${data.cells[cell].name} (${data.cells[cell].batch})`]), state.cell);
    fill(part("target"), targets, state.target ?? "own");
    part("order").value = state.order;
  }

  function show() {
    diverging = table(DIVERGING[isDark() ? "dark" : "light"]);
    const view = read(state.target);
    current = { view, top: genesThatMove(view) };
    state.gene ??= current.top[0];
    part("words").textContent = sentence(current);
    showBars();
    showStrip();
    showImages(current);
    drawImages();
    showTable(current);
    showGene();
    root.setAttribute("aria-busy", "false");
  }
  async function choose(changes, { isNew = true } = {}) {
    root.setAttribute("aria-busy", "true");
    Object.assign(state, changes);
    const { cell } = state;
    showChoices();
    try {
      const found = await unpack(cell);
      if (cell !== state.cell) return; // another was chosen meanwhile
      numbers = found;
    } catch (error) {
      fail(`The viewer's data are damaged (${error.message}). Write the report again.`);
      return;
    }
    show();
    if (isNew) remember();
  }
  // Another cell keeps the target, unless that is its own batch and nothing would differ.
  function targetFor(cell, wanted) {
    const own = ownTarget(cell);
    if (wanted !== null && wanted !== own) return wanted;
    const other = data.targets.findIndex((_, target) => target !== own);
    return other < 0 ? own : other;
  }
  const chooseCell = (cell) => choose({ cell, target: targetFor(cell, state.target) });

  // The address keeps what is chosen, so that a view can be linked.

  function remember() {
    const [cell, as, gene] = [data.cells[state.cell].name, nameOf(state.target), data.genes[state.gene]];
    history.replaceState(null, "", `${ADDRESS}${new URLSearchParams({ cell, as, gene, order: state.order })}`);
  }
  function followAddress() {
    if (!location.hash.startsWith(ADDRESS)) return false;
    const asked = new URLSearchParams(location.hash.slice(ADDRESS.length));
    const named = data.cells.findIndex(({ name }) => name === asked.get("cell"));
    const cell = named < 0 ? state.cell : named;
    const as = asked.get("as");
    let target = targetFor(cell, state.target);
    if (data.targets.includes(as)) target = data.targets.indexOf(as);
    else if (as === data.cells[cell].batch) target = null;
    const orders = [...part("order").options].map(({ value }) => value);
    const order = orders.includes(asked.get("order")) ? asked.get("order") : state.order;
    choose({ cell, target, order, gene: geneOf.get(asked.get("gene")) ?? state.gene }, { isNew: false });
    root.scrollIntoView();
    return true;
  }

  part("level").textContent = `${percent} interval`;
  part("how").textContent = `Run ${data.run}, model ${data.model}. Values are rounded to ${data.step}. ${data.intervals}`;
  part("genes").append(...data.genes.map((name) => make("option", { value: name })));
  part("body").hidden = false;
  on(part("label"), "change", ({ target }) => chooseCell(cellsOf(labels[target.value])[0]));
  on(part("cell"), "change", ({ target }) => chooseCell(Number(target.value)));
  on(part("target"), "change", ({ target }) => choose({ target: target.value === "own" ? null : Number(target.value) }));
  on(part("order"), "change", ({ target }) => choose({ order: target.value }));
  on(part("find"), "input", ({ target }) => {
    target.removeAttribute("aria-invalid");
    keep(geneOf.get(target.value.trim()) ?? null);
  });
  on(part("find"), "change", ({ target }) => {
    const name = target.value.trim();
    if (name && !geneOf.has(name)) target.setAttribute("aria-invalid", "true");
  });
  on(window, "hashchange", followAddress);
  const repaint = () => { if (current) show(); };
  on(window.matchMedia("(prefers-color-scheme: dark)"), "change", repaint);
  new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["class", "data-theme", "style"] });
  if (!followAddress()) choose({ target: targetFor(0, null) }, { isNew: false });
})();
