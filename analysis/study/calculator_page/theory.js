// Definitions: docs/architecture.md of vae-sweep. Pixels u are in [0, 1], N = C*H*W of
// them, D latents; a value per channel is an array of C numbers. null: not known.

class Wrong extends Error {  // of what a user set: a line that says what to do
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

const LEVELS = Array.from({ length: 256 }, (_, level) => level / 255);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (values) => sum(values) / values.length;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// --- normalization x_c = (u_c - shift_c) / scale_c ---

/** Mean and standard deviation (population) of each channel's pixels; counts [C][256]. */
function moments(counts) {
  const of = counts.map((channel) => {
    const all = sum(channel);
    const weights = channel.map((count) => count / all);
    const center = sum(weights.map((weight, level) => weight * LEVELS[level]));
    const squares = weights.map((weight, level) => weight * (LEVELS[level] - center) ** 2);
    return [center, Math.sqrt(sum(squares))];
  });
  return { mean: of.map(([center]) => center), std: of.map(([, std]) => std) };
}

const together = (counts) =>
  counts.map(() => LEVELS.map((_, level) => sum(counts.map((channel) => channel[level]))));

const NORMS = {
  unit: { fixed: [0, 1] },
  minus1_1: { fixed: [0.5, 0.5] },
  zscore: { of: (counts) => counts },
  zscore_global: { of: together },
  raw255: { fixed: [0, 1 / 255] },
};

/** {shift, scale} of a built-in normalization; counts may be null where it is fixed. */
function fit(name, counts, channels, field = "norm") {
  const { fixed, of } = NORMS[name];
  if (fixed) {
    const [shift, scale] = fixed.map((value) => Array(channels).fill(value));
    return { shift, scale };
  }
  if (!counts) throw new Wrong(field, `${name} is of the images, and there are none: drop some`);
  const { mean: shift, std: scale } = moments(of(counts));
  const constant = scale.flatMap((std, c) => (std === 0 ? [c] : []));
  if (constant.length)
    throw new Wrong(field, `norm ${name} divides by the standard deviation, which is 0 in ` +
      `channel [${constant.join(", ")}] of the training images; use norm=unit or norm=minus1_1`);
  return { shift, scale };
}

const isIdentity = ({ shift, scale }) => shift.every((v) => v === 0) && scale.every((v) => v === 1);

// --- output heads t_hat = g(a): what of the targets they reach ---

/** Closure of a head's range in target space, [low, high] per channel. */
function headRange({ low, high, onto }, { shift, scale }) {
  return shift.map((_, c) => {
    if (low === null || onto === "standardized") return [-Infinity, Infinity];
    if (onto === null) return [low, high];
    const [first, last] = [-shift[c] / scale[c], (1 - shift[c]) / scale[c]];
    const gain = (last - first) / (high - low);
    const bias = first - gain * low;
    return [gain * low + bias, gain * high + bias];
  });
}

/** What no network passes: E[dist(t, range)^2], exact, over images with counts [C][256].
 *
 * outside: share of targets beyond the range; mse per element in target space, msePixel
 * in [0, 1]; psnrCap in dB, Infinity where every target is in reach. */
function headFloor(head, target, counts) {
  const range = headRange(head, target);
  const of = counts.map((channel, c) => {
    const all = sum(channel);
    const [low, high] = range[c];
    let [squared, outside] = [0, 0];
    channel.forEach((count, level) => {
      const t = (LEVELS[level] - target.shift[c]) / target.scale[c];
      const distance = t - clamp(t, low, high);
      squared += (count / all) * distance ** 2;
      if (distance !== 0) outside += count / all;
    });
    return { squared, outside };
  });
  const msePixel = mean(of.map(({ squared }, c) => squared * target.scale[c] ** 2));
  // a target at the very edge of the range leaves rounding, not a floor
  if (msePixel < 1e-20) return { outside: 0, mse: 0, msePixel: 0, psnrCap: Infinity };
  return {
    outside: mean(of.map(({ outside }) => outside)),
    mse: mean(of.map(({ squared }) => squared)),
    msePixel,
    psnrCap: -10 * Math.log10(msePixel),
  };
}

/** [lowest, highest] target that the images have. */
function targetRange(target, counts) {
  const there = counts.flatMap((channel, c) => {
    const levels = LEVELS.filter((_, level) => channel[level] > 0);
    return [levels[0], levels.at(-1)].map((u) => (u - target.shift[c]) / target.scale[c]);
  });
  return [Math.min(...there), Math.max(...there)];
}

// --- objective w_r * error + beta * w_k * KL, and the noise that it implies ---

const REDUCTIONS = {  // (N, D) -> [w_r, w_k]
  sum: () => [1, 1],
  gaussian: () => [0.5, 1],
  mean: (pixels, latent) => [1 / pixels, 1 / latent],
  pixel_mean: (pixels) => [1 / pixels, 1],
};

/** Nats of likelihood that the loss gives for a nat of KL; factor: a stray one on w_r. */
function tempering(beta, reduction, pixels, latent, factor = 1) {
  const [w_r, w_k] = REDUCTIONS[reduction](pixels, latent);
  return (beta * w_k) / (factor * w_r);
}

const IMPLIED = {  // variance per channel in pixels, of error and tempering
  mse: (temper, scale) => scale.map((s) => (temper * s ** 2) / 2),  // Gaussian's
  l1: (temper, scale) => scale.map((s) => 2 * (temper * s) ** 2),  // Laplace's, 2 b^2
};

const sigmaOf = (variance) => 255 * Math.sqrt(mean(variance));  // 8-bit levels

/** The beta that implies the mean variance `wanted`, without a stray factor. */
function matchedBeta(wanted, likelihood, reduction, scale, pixels, latent) {
  const [one, two] = [1, 2].map((beta) =>
    mean(IMPLIED[likelihood](tempering(beta, reduction, pixels, latent), scale)));
  return (wanted / one) ** (1 / Math.log2(two / one));
}

// --- the optimum of a linear VAE (probabilistic PCA) ---

/** Eigenvalues of the covariance of targets of `scale`, descending, as far as they are
 * known, with what else the optimum needs; null where the images' are not known. */
function linearGaussian(images, scale, latent, size) {
  const unit = mean(scale.map((s) => s ** 2));
  const spectrum = images?.spectra?.find(({ ratio }) =>
    ratio.every((r, c) => Math.abs(r - scale[c] / Math.sqrt(unit)) < 1e-9));
  if (!spectrum) return null;
  const { total } = images;
  return {
    pixels: size * scale.length,
    latent,
    scale,
    known: Math.min(latent, spectrum.values.length),
    values: spectrum.values.slice(0, latent).map((value) => value / unit),
    toPixels: spectrum.values.map((_, i) => unit * (spectrum.pixel ? spectrum.pixel[i] : 1)),
    total: sum(total.map((value, c) => value / scale[c] ** 2)),
    totalPixel: sum(total),
  };
}

/** The optimum for a decoder of `variance` in target space; v = temper * variance.
 *
 * Latent i is active iff lam_i > v; it costs 1/2 ln(lam_i / v) nats and leaves the squared
 * error v, any other lam_i. null where it needs eigenvalues that are not known. */
function optimumAt(linear, variance, temper = 1) {
  const v = temper * variance;
  const active = linear.values.filter((lam) => lam > v);
  if (active.length === linear.known && linear.known < linear.latent) return null;
  const error = sum(active.map((lam) => lam - v));
  const errorPixel = sum(active.map((lam, i) => (lam - v) * linear.toPixels[i]));
  const none = active.length ? Infinity : 0;
  return {
    variance,
    threshold: v,
    activeUnits: active.length,
    kl: v > 0 ? 0.5 * sum(active.map((lam) => Math.log(lam / v))) : none,
    mse: Math.max(linear.total - error, 0) / linear.pixels,
    msePixel: Math.max(linear.totalPixel - errorPixel, 0) / linear.pixels,
  };
}

/** The optimum where the decoder's one variance is learned too: with q active directions
 * N * variance = q * v + the sum of the other lam. */
function optimumLearned(linear, temper) {
  if (linear.known < linear.latent) return null;
  let rest = linear.total;
  const found = [];
  for (let q = 0; q <= linear.values.length; q++) {
    if (q) rest -= linear.values[q - 1];
    const free = linear.pixels - temper * q;
    const variance = free > 0 ? Math.max(rest / free, 0) : Infinity;
    if (!(variance > 0 && variance < Infinity)) continue;
    const optimum = optimumAt(linear, variance, temper);
    if (optimum.activeUnits === q) found.push(optimum);
  }
  if (!found.length) return optimumAt(linear, 0);
  const worth = ({ variance, mse, kl }) =>
    (-linear.pixels / 2) * (Math.log(variance) + mse / variance) - temper * kl;
  return found.reduce((best, other) => (worth(other) > worth(best) ? other : best));
}

// --- all of it, of one set-up ---

/** Raises Wrong where the options do not fit one another. */
function check({ likelihood: name, head, reduction }, target, options) {
  const likelihood = options.likelihoods[name];
  if (likelihood.logit && !isIdentity(target.affine))
    throw new Wrong("target", `likelihood=${name} is defined on values in [0, 1] and needs ` +
      `target=unit, got target=${target.name}; set target=unit`);
  if (likelihood.logit && !options.heads[head].unit) {
    const fitting = Object.keys(options.heads).filter((word) => options.heads[word].unit);
    throw new Wrong("head", `likelihood=${name} needs a head with outputs in (0, 1), got ` +
      `head=${head}; set head=${fitting.slice(0, -1).join(", ")} or ${fitting.at(-1)}`);
  }
  if (reduction === "gaussian" && !likelihood.squared)
    throw new Wrong("reduction", `reduction=gaussian is the factor 1/2 of a Gaussian's ` +
      `squared error, and likelihood=${name} has no squared error; set reduction=sum`);
}

/** What can be said of a set-up before it is trained.
 *
 * setup: norm, target, head, likelihood, reduction (words), factor, beta, shape [C, H, W],
 * latent, and own: {norm, target} as {shift, scale} where a word is "own". images: counts
 * [C][256], or null, and where known spectra, total and shape. options: heads, likelihoods. */
function answer(setup, images, options) {
  const { head, likelihood, reduction, factor, beta, latent } = setup;
  const [channels, height, width] = setup.shape;
  const pixels = channels * height * width;
  const counts = images?.counts ?? null;
  const affine = (field, name) =>
    name === "own" ? setup.own[field] : fit(name, counts, channels, field);
  const norm = affine("norm", setup.norm);
  const name = setup.target === "same" ? setup.norm : setup.target;
  const target = setup.target === "same" ? norm : affine("target", name);
  check(setup, { name, affine: target }, options);

  const kind = options.likelihoods[likelihood];
  const temper = tempering(beta, reduction, pixels, latent, factor);
  const variance = IMPLIED[likelihood]?.(temper, target.scale) ?? null;
  const ofShape = images?.shape?.join() === setup.shape.join();
  const linear = ofShape ? linearGaussian(images, target.scale, latent, height * width) : null;
  const optimum = linear && (kind.squared ? optimumAt(linear, temper / 2)
    : kind.gaussian ? optimumLearned(linear, temper) : null);
  const fitting = linear && optimumLearned(linear, 1);
  const learned = optimum && sigmaOf(target.scale.map((s) => optimum.variance * s ** 2));
  const reach = options.heads[head];
  return {
    norm,
    target,
    targetName: name,
    pixels,
    tempering: temper,
    multiplier: temper / (beta / factor),
    implied: variance !== null,
    learns: kind.gaussian && linear === null,  // and predict knows how much
    sigma: variance ? sigmaOf(variance) : learned,
    sigmas: variance?.map((v) => 255 * Math.sqrt(v)) ?? null,
    betaPixel: variance ? 2 * mean(variance) : null,
    range: headRange(reach, target),
    targetRange: counts && targetRange(target, counts),
    floor: counts && headFloor(reach, target, counts),
    floors: counts?.map((channel, c) =>
      headFloor(reach, { shift: [target.shift[c]], scale: [target.scale[c]] }, [channel])) ?? null,
    optimum,
    psnr: optimum && -10 * Math.log10(optimum.msePixel),
    fittingSigma: fitting && sigmaOf(target.scale.map((s) => fitting.variance * s ** 2)),
    // no direction varies by more than all of them together
    collapsed: counts !== null && kind.squared && temper / 2 >=
      height * width * sum(moments(counts).std.map((std, c) => (std / target.scale[c]) ** 2)),
  };
}

/** The beta of every target and reduction with the noise `sigma`, as rows; null: none. */
function equalNoise(setup, sigma, images, options) {
  const [channels, height, width] = setup.shape;
  const own = Object.keys(setup.own).filter((field) => setup[field] === "own");
  const field = setup.target === "same" ? "norm" : "target";
  const names = [...Object.keys(NORMS), ...(own.includes(field) ? ["own"] : [])];
  return names.map((name) => {
    const betas = Object.keys(REDUCTIONS).map((reduction) => {
      try {
        const target = name === "own" ? setup.own[field]
          : fit(name, images?.counts ?? null, channels);
        check({ ...setup, reduction }, { name, affine: target }, options);
        return matchedBeta((sigma / 255) ** 2, setup.likelihood, reduction, target.scale,
          channels * height * width, setup.latent);
      } catch (error) {
        if (error instanceof Wrong) return null;
        throw error;
      }
    });
    return { name, betas };
  });
}

// --- in words: the sentences of vae_sweep.predict ---

/** A number as Python's format(value, f".{digits}g"). */
function short(value, digits) {
  if (value === 0 || !Number.isFinite(value)) return value === 0 ? "0" : `${value}`;
  const [figures, power] = value.toExponential(digits - 1).split("e").map(Number);
  if (power >= -4 && power < digits) return String(Number(value.toPrecision(digits)));
  return `${figures}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

const noiseOf = (sigma) => (sigma >= 9.95 ? sigma.toFixed(0) : short(sigma, 2));

function rangeSentence(head, { outside, psnrCap }) {
  if (psnrCap === Infinity) return `${head} reaches every target`;
  return `${short(100 * outside, 2)} % of the training targets lie outside ${head}'s range: ` +
    `no network can pass ${psnrCap.toFixed(2)} dB on the training images`;
}

/** {text, level}: level "" where nothing is unusual. */
function noiseSentence({ likelihood, reduction, beta, latent }, found) {
  const { sigma, multiplier, optimum } = found;
  if (beta === 0) return { text: "beta=0 is a plain autoencoder: nothing limits its KL", level: "warn" };
  if (sigma === null && found.learns)
    return { text: `likelihood=${likelihood} learns its noise, of which nothing is known here ` +
      "for these images: vae-sweep predict computes it", level: "" };
  if (sigma === null)
    return { text: `likelihood=${likelihood} has no linear optimum in closed form`, level: "" };
  let noise = `${found.implied ? "implied" : "learned"} noise ${noiseOf(sigma)}/255`;
  if (multiplier !== 1) noise += ` (reduction=${reduction} multiplies beta by ${short(multiplier, 4)})`;
  if (optimum === null && !found.collapsed) return { text: noise, level: "" };
  const used = optimum?.activeUnits ?? 0;
  const unused = `expect all ${latent} latents to be unused`;
  if (used === 0 && optimum?.msePixel === 0)
    return { text: `${noise}, and the images do not vary: ${unused}`, level: "warn" };
  if (used === 0)
    return { text: `${noise}, more than the images vary in any direction: ${unused}`, level: "warn" };
  const rest = 255 * Math.sqrt(optimum.msePixel);
  if (3 * sigma < rest)
    return { text: `${noise} is far below the ${noiseOf(rest)}/255 that ${latent} linear latents ` +
      "leave as error: expect the KL term to have almost no effect", level: "warn" };
  if (used < latent / 2)
    return { text: `${noise}: expect most latents to be unused, ${used} of ${latent} in use`, level: "warn" };
  return { text: `${noise} leaves ${used} of ${latent} latents in use`, level: "" };
}
