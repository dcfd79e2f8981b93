// Timestamps -> places between 0 and 1, on the segments of the time line; the idle time between two is cut short.

const SHORT = 0.02; // of the width, for what was cut out

const NICE = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

// segments: [[start, end], …] as texts. Returns {place, cuts, ticks(most)}; timestamps are in milliseconds.
export function timeScale(segments) {
  if (!segments.length) return { place: () => 0, cuts: [], ticks: () => [] };
  const spans = segments.map((segment) => segment.map((text) => Date.parse(text)));
  const shown = spans.reduce((total, [start, end]) => total + end - start, 0) || 1;
  const room = 1 - SHORT * (spans.length - 1);
  let at = 0;
  const pieces = spans.map(([start, end]) => {
    const piece = { start, end, from: at, width: (room * (end - start)) / shown };
    at += piece.width + SHORT;
    return piece;
  });
  const cuts = pieces.slice(1).map((piece, i) => ({
    from: piece.from - SHORT, width: SHORT, seconds: (piece.start - pieces[i].end) / 1000,
  }));

  function place(timestamp) {
    const { start, end, from, width } = pieces.findLast((piece) => timestamp >= piece.start) ?? pieces[0];
    const share = (timestamp - start) / (end - start || 1);
    return from + width * Math.min(Math.max(share, 0), 1);
  }

  function ticks(most) {
    const step = NICE.find((seconds) => shown / 1000 / seconds <= most) ?? shown / 1000 / most;
    const { start, end } = pieces[0];
    const made = [];
    for (let n = 0; n * step * 1000 <= end - start + 1; n += 1) {
      made.push({ seconds: Number((n * step).toPrecision(6)), at: place(start + n * step * 1000) });
    }
    return made;
  }

  return { place, cuts, ticks };
}
