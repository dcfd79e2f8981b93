// Moments -> places between 0 and 1. A long time in which nothing ran, as before a branch was cleared, is cut short.

const SHORT = 0.02; // of the width, for what was cut out
const LONG = 0.2; // of the busy time: an idle time longer than that is cut

const NICE = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

// spans: [[start, end], …] in milliseconds. Returns {place, cuts, ticks(most)}.
export function timeScale(spans) {
  const busy = [];
  for (const [start, end] of spans.filter(([a, b]) => b >= a).sort((a, b) => a[0] - b[0])) {
    const last = busy.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else busy.push([start, end]);
  }
  if (!busy.length) return { place: () => 0, cuts: [], ticks: () => [] };
  const sum = busy.reduce((total, [start, end]) => total + end - start, 0) || 1;
  const parts = [];
  for (const [start, end] of busy) {
    const last = parts.at(-1);
    if (last && start - last[1] <= LONG * sum) last[1] = end;
    else parts.push([start, end]);
  }
  const shown = parts.reduce((total, [start, end]) => total + end - start, 0) || 1;
  const room = 1 - SHORT * (parts.length - 1);
  let at = 0;
  const pieces = parts.map(([start, end]) => {
    const piece = { start, end, from: at, width: (room * (end - start)) / shown };
    at += piece.width + SHORT;
    return piece;
  });
  const cuts = pieces.slice(1).map((piece, i) => ({
    from: piece.from - SHORT, width: SHORT, seconds: (piece.start - pieces[i].end) / 1000,
  }));

  function place(moment) {
    let found = pieces[0];
    for (const piece of pieces) if (moment >= piece.start) found = piece;
    if (moment <= found.start) return found.from;
    if (moment >= found.end) return found.from + found.width;
    return found.from + (found.width * (moment - found.start)) / (found.end - found.start || 1);
  }

  function ticks(most) {
    const step = NICE.find((each) => shown / 1000 / each <= most) ?? shown / 1000 / most;
    const { start, end } = pieces[0];
    const made = [];
    for (let n = 0; n * step * 1000 <= end - start + 1; n += 1) {
      made.push({ seconds: Number((n * step).toPrecision(6)), at: place(start + n * step * 1000) });
    }
    return made;
  }

  return { place, cuts, ticks };
}
