// Figures as text. Prefixes are decimal: 1 kB is 1,000 bytes (B).

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

// count returns a whole number with separators.
export function count(n) {
  return n === null || n === undefined ? "–" : whole.format(n);
}

// digits returns n with three significant digits, and without an exponent.
function digits(n) {
  const a = Math.abs(n);
  return n.toFixed(a === 0 || a >= 100 ? 0 : a >= 10 ? 1 : 2);
}

// scaleOf returns the unit in which values up to max are shown.
export function scaleOf(kind, max) {
  const steps = {
    bytes: [[1, "B"], [1e3, "kB"], [1e6, "MB"], [1e9, "GB"], [1e12, "TB"]],
    rate: [[1, "B/s"], [1e3, "kB/s"], [1e6, "MB/s"], [1e9, "GB/s"]],
    time: [[1e-6, "µs"], [1e-3, "ms"], [1, "s"]],
    count: [[1, ""], [1e6, "million"]],
  }[kind];
  let best = steps[0];
  for (const s of steps) if (max >= s[0]) best = s;
  return { factor: best[0], name: best[1] };
}

function scaled(kind, n) {
  if (n === null || n === undefined) return "–";
  const s = scaleOf(kind, Math.abs(n));
  if (s.factor === 1 && kind !== "time") return whole.format(n) + " " + s.name;
  return digits(n / s.factor) + " " + s.name;
}

export const bytes = (n) => scaled("bytes", n);
export const rate = (n) => scaled("rate", n);

// seconds returns a duration that is given in seconds.
export function seconds(n) {
  if (n === null || n === undefined) return "–";
  if (n === 0) return "0 s";
  if (Math.abs(n) < 120) return scaled("time", n);
  const days = Math.floor(n / 86400), hours = Math.floor(n / 3600) % 24, minutes = Math.floor(n / 60) % 60;
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return `${minutes} min ${Math.floor(n % 60)} s`;
}

// inUnit returns a figure in a unit of scaleOf, with at most three significant digits and four decimals.
export function inUnit(n, unit) {
  if (!unit.name) return count(n);
  return `${Number(Number((n / unit.factor).toPrecision(3)).toFixed(4))} ${unit.name}`;
}

// share returns a part of one in per cent. A line does not break before the sign.
export function share(n) {
  const p = 100 * n;
  return (p > 0 && p < 10 ? p.toFixed(1) : p.toFixed(0)) + "\u00a0%";
}

// time returns an RFC 3339 time as seconds since 1970. Date has milliseconds only; the fraction is read apart.
export function time(text) {
  const m = /^(.*:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)$/.exec(text ?? "");
  return m ? Date.parse(m[1] + m[3]) / 1000 + Number("0" + (m[2] ?? "")) : NaN;
}

// clock returns the time of day of an RFC 3339 time with milliseconds, as UTC: a recording has no time zone.
export function clock(text) {
  return clockOf(time(text));
}

// clockOf is clock for seconds since 1970.
export function clockOf(t) {
  return Number.isNaN(t) ? "–" : new Date(t * 1000).toISOString().slice(11, 23);
}
