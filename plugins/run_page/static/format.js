// Numbers with their units, as one reads them.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit ? value.toPrecision(3) : value} ${UNITS[unit]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

export const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));

// The count and what is counted: 1 tensor, 1,024 tensors.
export const counted = (value, one, several = `${one}s`) => `${count(value)} ${value === 1 ? one : several}`;

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-4 ? value.toExponential(digits - 2) : Number(value.toPrecision(digits)).toString();
}

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function moment(text) {
  if (!text) return "–";
  const at = typeof text === "number" ? new Date(text * 1000) : new Date(text);
  return at.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}

export const shape = (sizes) => (sizes ? (sizes.length ? sizes.join(" × ") : "scalar") : "–");

export const words = (name) => name.replaceAll("_", " ").replace(/^./, (letter) => letter.toUpperCase());
