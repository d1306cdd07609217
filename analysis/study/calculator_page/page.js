const element = (id) => document.getElementById(id);
const form = element("setup");
const OWN = "own";  // of norm and target: shift and scale as typed
const MINE = "images";  // of data: those dropped onto the page
const FIELDS = ["data", "channels", "height", "width", "norm", "norm_shift", "norm_scale",
  "target", "target_shift", "target_scale", "head", "latent", "likelihood", "reduction",
  "beta", "factor"];
const SHAPE = ["channels", "height", "width"];
const DEFAULTS = {
  data: "cifar10", norm: "zscore", norm_shift: "0.5", norm_scale: "0.5", target: "same",
  target_shift: "0.5", target_scale: "0.5", head: "tanh", latent: "64", likelihood: "mse",
  reduction: "sum", beta: "1", factor: "1",
};
const COLORS = { 1: ["gray"], 3: ["red", "green", "blue"] };
const CUT = 6;  // times the median count, where the histogram's bars end
let mine = null;  // what was read of the user's images
let notes = [];  // about the address

// --- the state: a string for each field, and its address ---

const shapeOf = (data) => DATA.images[data]?.shape ?? mine?.shape ?? null;

function withShape(state) {  // C, H and W of the images, where the state says nothing else
  const shape = shapeOf(state.data) ?? [3, 32, 32];
  return { ...Object.fromEntries(SHAPE.map((field, i) => [field, String(shape[i])])), ...state };
}

/** The address of a state: what differs from the defaults. */
function hashOf(state) {
  const plain = withShape({ ...DEFAULTS, data: state.data });
  const used = FIELDS.filter((field) => {
    const [group, part] = field.split("_");
    if (part === "shift" || part === "scale") return state[group] === OWN;
    return !SHAPE.includes(field) && state[field] !== DEFAULTS[field];
  });
  const parts = used.map((field) => [field, state[field].trim()]);
  const shape = SHAPE.map((field) => state[field].trim()).join();
  if (state.data === MINE || shape !== SHAPE.map((field) => plain[field]).join())
    parts.push(["shape", shape]);
  return "#" + parts.map(([key, value]) =>
    `${key}=${encodeURIComponent(value).replaceAll("%2C", ",").replaceAll("%2F", "/")}`).join("&");
}

/** The state of an address; `notes` says what of it cannot be taken. */
function stateOf(hash) {
  notes = [];
  const given = Object.fromEntries(new URLSearchParams(hash.slice(1)));
  const state = { ...DEFAULTS };
  for (const [key, value] of Object.entries(given)) {
    const select = form.elements[key];
    if (key === "shape") {
      SHAPE.forEach((field, i) => { state[field] = value.split(",")[i] ?? ""; });
    } else if (!FIELDS.includes(key)) {
      notes.push(`The address has ${key}=${value}, which this page does not know.`);
    } else if (select.options && ![...select.options].some((option) => option.value === value)) {
      notes.push(`The address has ${key}=${value}, which is no option: ${DEFAULTS[key]} is shown.`);
    } else {
      state[key] = value;
    }
  }
  return withShape(state);
}

const shown = () => Object.fromEntries(FIELDS.map((field) => [field, form.elements[field].value]));

function show(state) {
  for (const field of FIELDS) form.elements[field].value = state[field];
  render();
}

// --- from strings to a set-up ---

function toNumber(text) {  // also 10/255
  const parts = text.trim().split("/").map((part) => (part.trim() === "" ? NaN : Number(part)));
  return parts.length > 2 ? NaN : parts.reduce((value, divisor) => value / divisor);
}

/** The set-up of a state, as `answer` takes it; raises Wrong, the first of all. */
function setupOf(state) {
  const number = (field, name, fits, rule) => {
    const value = toNumber(state[field]);
    if (!(Number.isFinite(value) && fits(value)))
      throw new Wrong(field, `${name} must be ${rule}, got ${state[field].trim() || "nothing"}`);
    return value;
  };
  const count = (field, name) =>
    number(field, name, (v) => Number.isInteger(v) && v >= 1, "a whole number from 1");
  const shape = SHAPE.map((field, i) => count(field, "CHW"[i]));
  const numbers = (field, name, fits, rule) => {
    const found = state[field].split(/[\s,;()[\]]+/).filter(Boolean).map(toNumber);
    if (!found.length || !found.every((v) => Number.isFinite(v) && fits(v)))
      throw new Wrong(field, `${name} must be ${rule}, got ${state[field].trim() || "nothing"}`);
    if (![1, shape[0]].includes(found.length))
      throw new Wrong(field, `${name} needs one number, or one for each of ${shape[0]} ` +
        `channels, got ${found.length}`);
    return found.length === 1 ? Array(shape[0]).fill(found[0]) : found;
  };
  const own = {};
  for (const group of ["norm", "target"])
    if (state[group] === OWN)
      own[group] = {
        shift: numbers(`${group}_shift`, "the shift", () => true, "a number of pixels in [0, 1]"),
        scale: numbers(`${group}_scale`, "the scale", (v) => v > 0, "a number above 0"),
      };
  const latent = count("latent", "D");
  const beta = number("beta", "β", (v) => v === 0 || (v >= 1e-30 && v <= 1e15),
    "0, or from 1e-30 to 1e15");
  const factor = number("factor", "the factor", (v) => v >= 1e-15 && v <= 1e15,
    "above 0, from 1e-15 to 1e15");
  const { norm, target, head, likelihood, reduction } = state;
  return { norm, target, own, head, likelihood, reduction, beta, factor, latent, shape };
}

/** What is known of the chosen images; null where they are a user's and not here. */
function imagesOf(state, [channels]) {
  if (state.data === MINE) {
    if (mine && !mine.byChannels[channels])
      throw new Wrong("channels", `images have 1 or 3 channels, got C=${channels}`);
    return mine && { counts: mine.byChannels[channels], shape: mine.shape };
  }
  const images = DATA.images[state.data];
  if (images.shape[0] !== channels)
    throw new Wrong("channels", `${images.name} has C=${images.shape[0]}, got ${channels}; ` +
      `set C=${images.shape[0]}, or choose other images`);
  return images;
}

// --- the answer, drawn ---

const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt()};`);
const percent = (share) => (share === 0 ? "0 %" : `${short(100 * share, share < 0.995 ? 2 : 4)} %`);
const decibels = (value) => (value === Infinity ? "no limit" : `${value.toFixed(2)} dB`);
const grouped = (sigma) =>
  sigma >= 9.95 ? sigma.toLocaleString("en-US", { maximumFractionDigits: sigma < 99.95 ? 1 : 0 }) : short(sigma, 2);
const rounded = (sigma) => (sigma >= 9.95 ? Math.round(sigma).toLocaleString("en-US") : short(sigma, 2));
const exact = (value) => String(Number(value.toPrecision(10)));
const paragraph = (text) => `<p>${text}</p>`;
const linked = (state, change, text) =>
  `<a href="${escaped(hashOf({ ...state, ...change }))}">${escaped(text)}</a>`;

function render() {
  const state = shown();
  for (const group of ["norm", "target"])
    document.querySelector(`[data-own=${group}]`).hidden = state[group] !== OWN;
  aboutImages(state);
  aboutPreset(state);
  let wrong = null;
  try {
    const setup = setupOf(state);
    const images = imagesOf(state, setup.shape);
    const found = answer(setup, images, DATA.options);
    element("answer").classList.remove("empty");  // before drawing, which asks for its width
    element("formula").textContent = formulaOf(setup);
    drawRange(state, setup, images, found);
    drawBalance(state, setup, images, found);
    drawNumbers(setup, found);
    drawReach(setup, images, found);
    drawEqual(state, setup, images, found);
    drawCommands(state, setup);
    drawSummary(found);
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    wrong = error;
  }
  for (const field of document.querySelectorAll("[data-field]")) {
    const isWrong = field.dataset.field === wrong?.field;
    const message = field.querySelector(".wrong");
    form.elements[field.dataset.field].setAttribute("aria-invalid", isWrong);
    message.hidden = !isWrong;
    message.textContent = isWrong ? wrong.message : "";
  }
  const problems = [...notes, ...(wrong ? [`No answer: ${wrong.message}.`] : [])];
  element("problem").hidden = !problems.length;
  element("problem").textContent = problems.join(" ");
  for (const part of element("answer").children)
    part.classList.toggle("stale", wrong !== null && part.id !== "problem");
  if (wrong) element("summary").textContent = `No answer: ${wrong.message}`;
  try {
    history.replaceState(null, "", hashOf(state) === "#" ? location.pathname + location.search : hashOf(state));
  } catch { /* a browser that counts changes of the address, and has enough of them */ }
}

function formulaOf({ likelihood, reduction, factor, beta, latent, shape }) {
  const error = { mse: "(t − t̂)²", l1: "|t − t̂|" }[likelihood] ?? "−ln p(u)";
  const [w_r, w_k] = REDUCTIONS[reduction](...[shape[0] * shape[1] * shape[2], latent]);
  const word = (weight) => (weight < 0.5 ? "mean" : "sum");
  const before = [factor === 1 ? "" : `${short(factor, 6)} · `, w_r === 0.5 ? "½ " : ""].join("");
  return `loss = ${before}${word(w_r)} ${error} + ${short(beta, 6)} · ${word(w_k)} KL`;
}

function fill(id, level, title, parts) {
  const card = element(id);
  card.className = `card ${level}`;
  card.querySelector("h2").textContent = title;
  card.querySelector("div").innerHTML = parts.join("");
}

function drawRange(state, setup, images, found) {
  const { floor, psnr, range, targetRange: targets } = found;
  if (!floor) {
    fill("range", "open", "Range: not known without images", [paragraph(
      "This address is of somebody's own images, which it does not carry. Choose or drop them " +
      "here, or take the histogram of CIFAR-10 or MNIST.")]);
    return;
  }
  const parts = [paragraph(escaped(rangeSentence(setup.head, floor)) + ".")];
  if (floor.psnrCap === Infinity) {
    const used = (targets[1] - targets[0]) / (range[0][1] - range[0][0]);
    if (DATA.options.heads[setup.head].onto === null && used < 0.75)
      parts.push(paragraph(`The targets take up ${percent(used)} of its range.`));
    fill("range", "", "Range: nothing is out of reach", parts);
    return;
  }
  if (psnr !== null) {
    const least = -10 * Math.log10(found.optimum.msePixel + floor.msePixel);
    parts.push(paragraph(`A linear VAE of ${setup.latent} latents reaches ${psnr.toFixed(2)} dB at this ` +
      `noise. Clipped to this range it keeps ${least.toFixed(2)} dB at least, and the cap at most.`));
  }
  const fixes = waysToFit(state, setup, images, found);
  if (fixes.length)
    parts.push(paragraph("To bring every target into reach, at the same noise, set one of:"),
      `<ul>${fixes.map((fix) => `<li>${fix}</li>`).join("")}</ul>`);
  fill("range", "warn", `Range: ${percent(floor.outside)} of targets out of reach`, parts);
}

/** Links to other heads and other targets that reach everything, the noise kept. */
function waysToFit(state, setup, images, found) {
  const reaches = (change) => {
    try {
      return answer({ ...setup, ...change }, images, DATA.options).floor.psnrCap === Infinity;
    } catch (error) {
      if (error instanceof Wrong) return false;
      throw error;
    }
  };
  const heads = Object.keys(DATA.options.heads).filter((head) => reaches({ head }))
    .map((head) => linked(state, { head }, `head=${head}`));
  const rows = found.implied && found.sigma > 0 ? equalNoise(setup, found.sigma, images, DATA.options) : [];
  const column = Object.keys(REDUCTIONS).indexOf(setup.reduction);
  const targets = Object.keys(NORMS).filter((target) => reaches({ target })).map((target) => {
    const row = rows.find(({ name }) => name === target);
    if (!row) return linked(state, { target }, `target=${target}`);
    const beta = row.betas[column] * setup.factor;
    return linked(state, { target, beta: exact(beta) }, `target=${target}`) + ` with β=${short(beta, 4)}`;
  });
  return [heads.join(", "), targets.join(", ")].filter(Boolean);
}

function drawBalance(state, setup, images, found) {
  const { text, level } = noiseSentence(setup, found);
  const parts = [paragraph(escaped(text[0].toUpperCase() + text.slice(1)) + ".")];
  if (setup.factor !== 1)
    parts.push(paragraph(`The factor ${short(setup.factor, 4)} on the error divides β by as much: ` +
      `${short(setup.beta, 4)} becomes ${short(setup.beta / setup.factor, 4)}.`));
  const squared = DATA.options.likelihoods[setup.likelihood].squared;
  if (squared && found.fittingSigma) {
    const variance = (found.fittingSigma / 255) ** 2;
    const [channels, height, width] = setup.shape;
    const beta = setup.factor * matchedBeta(variance, setup.likelihood, setup.reduction,
      found.target.scale, channels * height * width, setup.latent);
    parts.push(paragraph(`The noise that fits a linear VAE of ${setup.latent} latents best, its own ` +
      `error, is ${noiseOf(found.fittingSigma)}/255: ` +
      linked(state, { beta: exact(beta) }, `β=${short(beta, 4)}`) + " here."));
  } else if (squared && found.optimum === null && !found.collapsed && setup.beta > 0) {
    parts.push(paragraph("How many latents that leaves in use is known here only for CIFAR-10 and MNIST " +
      "at their own size, under equal or z-scored scales; <code>vae-sweep predict</code> computes it for any images."));
    if (found.sigma >= 255) parts.splice(1, 0, paragraph("That is more than the whole range of the pixels."));
  }
  const title = found.sigma === null ? "Balance: β implies no noise" : setup.beta === 0
    ? "Balance: no weight on the KL" : `Balance: noise of ${rounded(found.sigma)} levels of 255`;
  const unknown = found.optimum === null && !found.collapsed;
  fill("balance", level || (unknown ? "open" : ""), title, parts);
}

function drawNumbers(setup, found) {
  const { floor, optimum } = found;
  const unknown = "–";
  const rows = [
    [found.implied || found.sigma === null ? "implied noise, 8-bit levels" : "learned noise, 8-bit levels",
      found.sigma === null ? unknown : `${grouped(found.sigma)} <small>/255</small>`],
    ["β of plain sums, these targets", short(found.tempering, 4)],
    ["β of plain sums, pixels in [0, 1]", found.betaPixel === null ? unknown : short(found.betaPixel, 4)],
    ["targets out of reach", floor ? percent(floor.outside) : unknown],
    ["PSNR cap of the head", floor ? decibels(floor.psnrCap) : unknown],
    ["latents in use, linear optimum", optimum ? `${optimum.activeUnits} <small>of ${setup.latent}</small>`
      : found.collapsed ? `0 <small>of ${setup.latent}</small>` : unknown],
    ["KL, linear optimum", optimum ? `${Number.isFinite(optimum.kl) ? optimum.kl.toFixed(1) : "∞"} <small>nats</small>`
      : found.collapsed ? "0.0 <small>nats</small>" : unknown],
    ["PSNR, linear optimum", optimum ? decibels(found.psnr) : unknown],
  ];
  element("numbers").innerHTML =
    rows.map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`).join("");
}

function drawSummary({ sigma, floor }) {
  const noise = sigma === null ? "no implied noise" : `noise ${rounded(sigma)}/255`;
  const cap = floor ? (floor.psnrCap === Infinity ? "all in reach"
    : `${percent(floor.outside)} out of reach, cap ${decibels(floor.psnrCap)}`) : "range not known";
  element("summary").innerHTML = `<span>${noise}</span><span>${cap}</span>`;
}

// --- what the head reaches: a picture and a table ---

const names = (channels) =>
  COLORS[channels] ?? Array.from({ length: channels }, (_, c) => `channel ${c}`);
const compact = (value) => (Number.isFinite(value) ? short(value, 4).replace("-", "−") : value < 0 ? "−∞" : "∞");
const span = ([low, high]) => `${compact(low)} … ${compact(high)}`;

function drawReach(setup, images, found) {
  const counts = images?.counts;
  element("reach").hidden = !counts;
  if (!counts) return;
  element("drawing").innerHTML = histogram(setup, counts, found);
  element("drawing-about").innerHTML =
    '<span class="key" style="background:var(--bar)"></span>pixels in reach ' +
    '<span class="key" style="background:var(--miss)"></span>out of reach ' +
    '<span class="key" style="background:var(--band)"></span>the head’s range. ' +
    "Heights are square roots of counts, cut off where a level has many; numbers at the dashed " +
    "ends are in target space.";
  const head = ["channel", "shift", "scale", "targets", "head’s range", "out of reach", "cap", "noise (8-bit)"];
  const rows = names(counts.length).map((name, c) => {
    const target = { shift: [found.target.shift[c]], scale: [found.target.scale[c]] };
    return [name, compact(target.shift[0]), compact(target.scale[0]), span(targetRange(target, [counts[c]])),
      span(found.range[c]), percent(found.floors[c].outside), decibels(found.floors[c].psnrCap),
      found.sigmas ? grouped(found.sigmas[c]) : "–"];
  });
  fillTable("channels-table", head, rows);
}

function fillTable(id, head, rows) {
  const cells = ([first, ...rest]) => `<th scope="row">${first}</th>` +
    rest.map((cell) => (cell.startsWith("<td") ? cell : `<td>${cell}</td>`)).join("");
  element(id).innerHTML =
    `<thead><tr>${head.map((name) => `<th scope="col">${name}</th>`).join("")}</tr></thead>` +
    `<tbody>${rows.map((row) => `<tr>${cells(row)}</tr>`).join("")}</tbody>`;
}

function histogram(setup, counts, { range, target, floors }) {
  const width = Math.max(element("drawing").clientWidth, 280);
  const [top, tall, beyond] = [22, 70, 24];  // of a channel's row, pixels; levels shown beyond 0..255
  const x = (level) => ((clamp(level, -beyond, 255 + beyond) + beyond) / (255 + 2 * beyond)) * width;
  const rows = counts.map((channel, c) => {
    const [low, high] = range[c].map((t) => 255 * (t * target.scale[c] + target.shift[c]));
    const inView = (level) => level > -beyond && level < 255 + beyond;
    const [all, there] = [sum(channel), channel.filter(Boolean).sort((a, b) => a - b)];
    const most = Math.min(there.at(-1), CUT * there[there.length >> 1]);
    const bottom = (c + 1) * (top + tall);
    const step = x(1) - x(0);
    const bars = channel.map((count, level) => {
      if (!count) return "";
      const t = (LEVELS[level] - target.shift[c]) / target.scale[c];
      const missed = floors[c].outside > 0 && (t < range[c][0] || t > range[c][1]);
      const height = Math.max(Math.sqrt(Math.min(count / most, 1)) * (tall - 4), 1);
      const cut = count > most && count > 0.05 * all;
      return (cut ? `<text class="cut" x="${(x(level) + (level < 128 ? 5 : -5)).toFixed(2)}" y="${bottom - tall + 14}" ` +
        `text-anchor="${level < 128 ? "start" : "end"}">${percent(count / all)} at ${level}</text>` : "") +
        `<rect class="${missed ? "miss" : "bar"}" x="${(x(level) - step / 2).toFixed(2)}" ` +
        `y="${(bottom - height).toFixed(2)}" width="${(step * 1.04).toFixed(2)}" height="${height.toFixed(2)}"/>`;
    });
    const ends = [[low, "end"], [high, "start"]].map(([level, side], i) => {
      if (!inView(level)) return "";
      const room = side === "end" ? x(level) > 110 : x(level) < width - 50;
      const anchor = room ? side : side === "end" ? "start" : "end";
      const shift = anchor === "end" ? -4 : 4;
      return `<line class="end" x1="${x(level)}" x2="${x(level)}" y1="${bottom - tall}" y2="${bottom}"/>` +
        `<text x="${x(level) + shift}" y="${bottom - tall - 5}" text-anchor="${anchor}">${compact(range[c][i])}</text>`;
    });
    return `<rect class="band" x="${x(low)}" y="${bottom - tall}" width="${Math.max(x(high) - x(low), 0)}" height="${tall}"/>` +
      `${bars.join("")}<line class="axis" x1="0" x2="${width}" y1="${bottom}" y2="${bottom}"/>${ends.join("")}` +
      `<text class="name" x="0" y="${bottom - tall - 5}">${names(counts.length)[c]}</text>`;
  });
  const bottom = counts.length * (top + tall);
  const ticks = [0, 64, 128, 192, 255].map((level) =>
    `<line class="axis" x1="${x(level)}" x2="${x(level)}" y1="${bottom}" y2="${bottom + 5}"/>` +
    `<text x="${x(level)}" y="${bottom + 18}" text-anchor="middle">${level}</text>`);
  const about = names(counts.length).map((name, c) => `${name} ${percent(floors[c].outside)}`).join(", ");
  return `<svg viewBox="0 0 ${width} ${bottom + 38}" height="${bottom + 38}" role="img" ` +
    `aria-label="Histogram of pixel levels of each channel; out of reach of ${setup.head}: ${about}">` +
    `${rows.join("")}${ticks.join("")}<text x="${width / 2}" y="${bottom + 34}" text-anchor="middle">` +
    "8-bit level of the pixel</text></svg>";
}

// --- equal noise, and commands ---

function drawEqual(state, setup, images, found) {
  const implied = found.implied && found.sigma > 0;
  element("equal-table").parentElement.hidden = element("copy-table").hidden = !implied;
  element("equal-about").textContent = implied
    ? `The β that implies the same ${rounded(found.sigma)} levels of noise, without a stray factor. ` +
      "Each is a link to that set-up."
    : setup.beta === 0 ? "β = 0 implies no noise to keep."
    : `likelihood=${setup.likelihood} has a noise of its own or none, so β implies none to keep.`;
  if (!implied) return;
  const field = setup.target === "same" ? "norm" : "target";
  const reductions = Object.keys(REDUCTIONS);
  const rows = equalNoise(setup, found.sigma, images, DATA.options).map(({ name, betas }) => [
    name,
    ...betas.map((beta, i) => {
      if (beta === null) return "–";
      const change = { [field]: name, reduction: reductions[i], beta: exact(beta), factor: "1" };
      const here = state[field] === name && state.reduction === reductions[i];
      return `<td${here ? ' class="here" aria-current="true"' : ""} data-value="${exact(beta)}">` +
        `${linked(state, change, short(beta, 4))}</td>`;
    }),
  ]);
  fillTable("equal-table", [field === "norm" ? "norm" : "target", ...reductions], rows);
}

function markdownOf(table) {
  const lines = [...table.rows].map((row) =>
    `| ${[...row.cells].map((cell) => cell.dataset.value ?? cell.textContent).join(" | ")} |`);
  const rule = `|---|${"--:|".repeat(table.rows[0].cells.length - 1)}`;
  return [lines[0], rule, ...lines.slice(1)].join("\n");
}

/** Options of vae-sweep that say this set-up; a stray factor goes into beta. */
function optionsOf(state, setup) {
  const own = (field, name) => (setup[field] === OWN ? `scaling:${name}` : setup[field]);
  const words = [`norm=${own("norm", "NORM")}`];
  if (setup.target !== "same") words.push(`target=${own("target", "TARGET")}`);
  words.push(`head=${setup.head}`);
  if (setup.likelihood !== DEFAULTS.likelihood) words.push(`likelihood=${setup.likelihood}`);
  words.push(`reduction=${setup.reduction}`, `beta=${setup.beta / setup.factor}`, `model.latent=${setup.latent}`);
  const [channels, height, width] = setup.shape;
  const native = DATA.images[state.data]?.shape.join() === setup.shape.join();
  if (native) return [...words, `data=${state.data}`];
  words.push("data=image_folder", "data.path=FOLDER");
  const asTheyAre = state.data === MINE && mine?.sizes === 1 && mine.shape.slice(1).join() === `${height},${width}`;
  if (height === width && !asTheyAre) words.push(`data.size=${height}`);
  if (channels === 1) words.push("data.grayscale=true");
  return words;
}

function scalingFile(setup) {
  const three = (values) => [0, 1, 2].map((c) => values[c] ?? values.at(-1)).join(", ");
  const functions = Object.entries(setup.own).map(([field, { shift, scale }]) =>
    `\n\ndef ${field.toUpperCase()}(counts):\n    shift = torch.tensor([${three(shift)}], dtype=torch.float64)\n` +
    `    scale = torch.tensor([${three(scale)}], dtype=torch.float64)\n    return Affine(shift[:len(counts)], scale[:len(counts)])\n`);
  return "# scaling.py\nimport torch\nfrom vae_sweep import Affine\n" + functions.join("");
}

function drawCommands(state, setup) {
  const words = optionsOf(state, setup);
  const blocks = [];
  if (Object.keys(setup.own).length)
    blocks.push(["Save this as scaling.py in the folder that you work in:", scalingFile(setup)]);
  blocks.push(["What theory says of it, without training:", `vae-sweep predict ${words.join(" ")}`]);
  blocks.push(["Trained:", `vae-sweep run ${words.join(" ")}`]);
  const about = words.includes("data.path=FOLDER")
    ? "FOLDER holds your images." + (setup.shape[1] === setup.shape[2] ? "" : " They must all have that size.")
    : state.data === "cifar10" ? "data=cifar10 downloads the original images; the histogram above is of " +
      "the same ones, re-encoded as JPEG." : "";
  element("commands").innerHTML = blocks.map(([text, command]) =>
    `${paragraph(text)}<div class="command"><pre>${escaped(command)}</pre><button type="button" ` +
    `aria-label="Copy: ${escaped(text)}">Copy</button></div>`).join("") +
    (about ? `<p class="quiet">${about}</p>` : "");
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a browser that has no clipboard for files
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = button.dataset.label ??= button.textContent;
  button.textContent = "Copied";
  element("said").textContent = "Copied";
  setTimeout(() => { button.textContent = before; element("said").textContent = ""; }, 1200);
}

// --- code bases ---

function presetState({ setup }) {
  const state = { ...DEFAULTS };
  for (const field of FIELDS) if (field in setup) state[field] = String(setup[field]);
  SHAPE.forEach((field, i) => { state[field] = String(setup.shape[i]); });
  return state;
}

function aboutPreset(state) {
  const fits = (index) => index !== "" && hashOf(presetState(DATA.presets[index])) === hashOf(state);
  const select = element("preset");
  if (!fits(select.value))
    select.value = Object.keys(DATA.presets).find(fits) ?? "";
  const preset = DATA.presets[select.value];
  element("preset-about").hidden = !preset;
  if (!preset) return;
  element("preset-about").innerHTML =
    `${escaped(preset.loss[0].toUpperCase() + preset.loss.slice(1))}. ` +
    (preset.left_out ? `Left out: ${escaped(preset.left_out)}. ` : "") +
    `A small network trained with it on dead leaves of that size came to ${preset.kl.toFixed(1)} nats ` +
    `of KL and ${preset.psnr.toFixed(1)} dB${preset.expects && `, where theory says: ${escaped(preset.expects)}`}. ` +
    `<a href="${escaped(preset.url)}" target="_blank" rel="noopener">Source code</a>`;
}

// --- images of one's own: counted in the browser ---

function aboutImages(state) {
  const images = DATA.images[state.data];
  element("data-about").textContent = images ? images.about + "." : mine
    ? `${mine.about} A link to this answer does not carry them.` : "None are here yet.";
}

/** Luma as Pillow's convert("L"). */
const luma = (r, g, b) => (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;

function checkCanvas(context) {  // some browsers alter pixels, against fingerprinting
  const given = new ImageData(Uint8ClampedArray.from({ length: 1024 }, (_, i) => (i % 4 === 3 ? 255 : i >> 2)), 16, 16);
  context.canvas.width = context.canvas.height = 16;
  context.putImageData(given, 0, 0);
  const { data } = context.getImageData(0, 0, 16, 16);
  if (data.some((value, i) => value !== given.data[i]))
    throw new Wrong("data", "this browser alters the pixels that a page reads, so that counts " +
      "would be wrong; allow this page to read canvases, or use another browser");
}

/** Counts the levels of image files; `tell` hears how far it is. */
async function countLevels(files, tell) {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  checkCanvas(context);
  const empty = () => new Array(256).fill(0);
  const [colors, grays] = [[empty(), empty(), empty()], empty()];
  const [sizes, left] = [new Set(), []];
  let isGray = true;
  for (const [i, file] of files.entries()) {
    tell(`Reading ${i + 1} of ${files.length} …`);
    let pixels;
    try {
      const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
      const { width, height } = Object.assign(context.canvas, { width: bitmap.width, height: bitmap.height });
      context.fillStyle = "#fff";  // vae-sweep's data.background
      context.fillRect(0, 0, width, height);
      context.drawImage(bitmap, 0, 0);
      bitmap.close();
      pixels = context.getImageData(0, 0, width, height).data;
      sizes.add(`${height},${width}`);
    } catch {
      left.push(file.name);
      continue;
    }
    for (let p = 0; p < pixels.length; p += 4) {
      const [r, g, b] = [pixels[p], pixels[p + 1], pixels[p + 2]];
      colors[0][r]++;
      colors[1][g]++;
      colors[2][b]++;
      grays[luma(r, g, b)]++;
      isGray &&= r === g && g === b;
    }
  }
  return { colors, grays, sizes: [...sizes], isGray, left, read: files.length - left.length };
}

async function readImages(files) {
  const tell = (text) => { element("data-about").textContent = text; };
  let found;
  try {
    found = await countLevels(files, tell);
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    notes = [error.message + "."];
    render();
    return;
  }
  const listed = found.left.slice(0, 3).join(", ") + (found.left.length > 3 ? ` and ${found.left.length - 3} more` : "");
  notes = found.left.length ? [`Left out: ${listed}, no image that this browser can read.`] : [];
  if (!found.read) {
    render();
    return;
  }
  const { sizes, isGray, read } = found;
  const [height, width] = sizes.length === 1 ? sizes[0].split(",").map(Number)
    : ["height", "width"].map((field) => toNumber(form.elements[field].value));
  const what = `${read.toLocaleString("en-US")} image${read === 1 ? "" : "s"}${isGray ? ", gray: one channel" : ""}`;
  mine = {
    byChannels: { 1: [found.grays], 3: found.colors },
    shape: [isGray ? 1 : 3, height, width],
    sizes: sizes.length,
    about: sizes.length === 1 ? `${what}, of ${height}x${width} (HxW).`
      : `${what}, of ${sizes.length} sizes: the histogram is of all their pixels; set H and W to what you train on.`,
  };
  form.elements.data.value = MINE;
  SHAPE.forEach((field, i) => { form.elements[field].value = mine.shape[i]; });
  render();
}

/** The files that were dropped, those within folders too. */
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const within = async (entry) => {
    if (entry.isFile) return [await new Promise((give, fail) => entry.file(give, fail))];
    const [reader, found] = [entry.createReader(), []];
    for (;;) {  // it gives a hundred at a time
      const some = await new Promise((give, fail) => reader.readEntries(give, fail));
      if (!some.length) break;
      found.push(...some);
    }
    return (await Promise.all(found.map(within))).flat();
  };
  const files = (await Promise.all(entries.map(within))).flat();
  return files.filter((file) => !file.name.startsWith("."));
}

// --- what a user does ---

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", ({ target }) => {
  if (target.id === "files") return;
  notes = [];
  if (target.id === "preset") {
    if (target.value !== "") show(presetState(DATA.presets[target.value]));
    return;
  }
  const shape = target.id === "data" && shapeOf(target.value);
  if (shape) SHAPE.forEach((field, i) => { form.elements[field].value = shape[i]; });
  render();
});
form.addEventListener("reset", (event) => {
  event.preventDefault();
  show(stateOf(""));
});
element("files").addEventListener("change", async ({ target }) => {
  if (target.files.length) await readImages([...target.files]);
  target.value = "";  // so that the same file can be chosen again
});
element("summary").addEventListener("click", () => element("answer").scrollIntoView());
element("link").addEventListener("click", ({ target }) => copy(location.href, target));
element("copy-table").addEventListener("click", ({ target }) =>
  copy(markdownOf(element("equal-table")), target));
element("commands").addEventListener("click", ({ target }) => {
  if (target.matches("button")) copy(target.previousElementSibling.textContent, target);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  addEventListener(kind, async (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    const leaves = kind === "drop" || (kind === "dragleave" && event.relatedTarget === null);
    document.body.classList.toggle("dragging", !leaves);
    if (kind === "drop") await readImages(await filesOf(event.dataTransfer));
  });
addEventListener("hashchange", () => show(stateOf(location.hash)));
let drawnAt = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== drawnAt) { drawnAt = innerWidth; render(); }
});
show(stateOf(location.hash));
