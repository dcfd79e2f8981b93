// Figures and texts as people read them. What wasn't recorded is a dash, never a guess.

const NOTHING = "–";
const NUMBERS = new Intl.NumberFormat("en");

export const count = (number) => NUMBERS.format(number);

export const counted = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

export function seconds(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value < 0.1) return `${Math.round(value * 1000)} ms`;
  if (value < 59.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${count(days)} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
}

// Of a round number of seconds: "0", "0.5 s", "30 s", "1 min", "1 min 30 s", "2 h".
export function tickLabel(value) {
  if (value < 60) return value === 0 ? "0" : `${value} s`;
  return seconds(value).replace(/ 0 (s|min|h)$/, "");
}

export const ratio = (value) => (value === null ? NOTHING : `${value.toFixed(1)}×`);

export const share = (value) => (value === null ? NOTHING : `${Math.round(value * 100)} %`);

export function bytes(value) {
  return value === null ? NOTHING : `${count(Math.round(value / 1e6))} MB`;
}

export function moment(value) {
  return value === null ? NOTHING : new Date(value).toLocaleString();
}

// Characters that can't be seen, or turn what follows them around, are written out. Joiners stay: emoji need them.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
const JOINERS = new Set(["\u200c", "\u200d"]);

export function visible(text) {
  return text.replace(UNSEEN, (each) => (JOINERS.has(each) ? each : `\\u{${each.codePointAt(0).toString(16)}}`));
}
