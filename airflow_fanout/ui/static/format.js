// Numbers and texts of single branches as people read them; what is said of a group comes ready with the report.

const NOTHING = "–";
const NUMBERS = new Intl.NumberFormat("en");

export const count = (number) => NUMBERS.format(number);

export const counted = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

// As format_seconds of the report writes it: "–", "40 ms", "3.0 s", "1 min 12 s", "2 h 5 min", "3 d 2 h".
export function duration(seconds) {
  if (seconds === null) return NOTHING;
  const milliseconds = Math.round(seconds * 1000);
  if (milliseconds > 0 && milliseconds < 100) return `${milliseconds} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const minutes = Math.round(seconds / 60);
  if (Math.round(seconds) < 3600) return `${Math.floor(Math.round(seconds) / 60)} min ${Math.round(seconds) % 60} s`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  const hours = Math.round(seconds / 3600);
  return `${count(Math.floor(hours / 24))} d ${hours % 24} h`;
}

// Of a round number of seconds: "0", "0.5 s", "30 s", "1 min", "1 min 30 s", "2 h".
export function tickLabel(seconds) {
  if (seconds < 60) return seconds === 0 ? "0" : `${seconds} s`;
  return duration(seconds).replace(/ 0 (s|min|h)$/, "");
}

export const megabytes = (bytes) => (bytes === null ? NOTHING : `${count(Math.round(bytes / 1e6))} MB`);

// As format_amount of the report writes it: "–", "812 B", "40 kB", "2.3 GB".
export function amount(bytes) {
  if (bytes === null) return NOTHING;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let number = bytes;
  while (Math.round(number) >= 1000 && units.length > 1) {
    number /= 1000;
    units.shift();
  }
  const isShort = number < 10 && units[0] !== "B" && Math.round(number * 10) !== 10 * Math.round(number);
  return `${isShort ? number.toFixed(1) : count(Math.round(number))} ${units[0]}`;
}

export const localTime = (text) => (text === null ? NOTHING : new Date(text).toLocaleString());

// Characters that can't be seen, or turn what follows them around, are written out. Joiners stay: emoji need them.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;
const JOINERS = new Set(["\u200c", "\u200d"]);

export function visible(text) {
  return text.replace(UNSEEN, (char) => (JOINERS.has(char) ? char : `\\u{${char.codePointAt(0).toString(16)}}`));
}
