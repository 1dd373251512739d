// BERT's WordPiece tokenizer: the ids that Hugging Face `tokenizers` gives, in any browser and in Node.
//
// What each character becomes stands in app.json, so the answer does not depend on the Unicode tables of the engine.
// Places in a text are counted in UTF-16 units, as everywhere in JavaScript.

const HANGUL = [0xac00, 0xd7a3];
const REPLACEMENT = 0xfffd;

const within = (ranges, code) => {
  let low = 0, high = ranges.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (code < ranges[middle][0]) high = middle - 1;
    else if (code > ranges[middle][1]) low = middle + 1;
    else return true;
  }
  return false;
};

const codesOf = (text) => Array.from(text, (char) => char.codePointAt(0));

/** How many tokens of each text stay where `room` are allowed: the longer one is cut first. */
export const kept = (first, second, room) => {
  if (first + second <= room) return [first, second];
  const shorter = Math.min(first, second);
  let longer = shorter > room ? shorter : Math.max(shorter, room - shorter), less = shorter;
  if (less + longer > room) {
    less = Math.floor(room / 2);
    longer = less + (room % 2);
  }
  return first > second ? [longer, less] : [less, longer];
};

export class WordPiece {
  /** settings: "tokenizer" of app.json. vocabulary: the content of vocab.txt. */
  constructor(settings, vocabulary) {
    this.settings = settings;
    this.ids = new Map(vocabulary.replace(/\n$/, '').split('\n').map((piece, id) => [piece, id]));
    this.special = Object.entries(settings.special).sort(([a], [b]) => b.length - a.length);
    this.changes = new Map(settings.from.map((code, place) => [code, codesOf(settings.to[place])]));
  }

  /** What a character becomes: code points. */
  normalised(code) {
    const { removed, spaced, hangul } = this.settings;
    const changed = this.changes.get(code);
    if (changed) return changed;
    if (hangul && code >= HANGUL[0] && code <= HANGUL[1]) {
      const index = code - HANGUL[0], tail = index % 28;
      const letters = [0x1100 + Math.floor(index / 588), 0x1161 + Math.floor((index % 588) / 28)];
      return tail ? [...letters, 0x11a7 + tail] : letters;
    }
    if (within(removed, code)) return [];
    return within(spaced, code) ? [0x20, code, 0x20] : [code];
  }

  /** The tokens of one text without [CLS] and [SEP]: [{id, start, end}], places in the text. */
  tokens(text) {
    const found = [];
    let word = [];
    const close = () => {
      this.#pieces(word, found);
      word = [];
    };
    for (let start = 0, end; start < text.length; start = end) {
      const special = this.special.find(([name]) => text.startsWith(name, start));
      if (special) {
        close();
        end = start + special[0].length;
        found.push({ id: special[1], start, end });
        continue;
      }
      let code = text.codePointAt(start);
      end = start + (code > 0xffff ? 2 : 1);
      if (code >= 0xd800 && code <= 0xdfff) code = REPLACEMENT; // half of a character
      for (const one of this.normalised(code)) {
        const alone = within(this.settings.punctuation, one);
        if (alone || within(this.settings.space, one)) close();
        else word.push({ char: String.fromCodePoint(one), start, end });
        if (alone) {
          word.push({ char: String.fromCodePoint(one), start, end });
          close();
        }
      }
    }
    close();
    return found;
  }

  /** The longest piece that the word starts with, then the longest that the rest starts with; unknown if none fits. */
  #pieces(word, found) {
    if (!word.length) return;
    const { unknown, prefix, longest_word: longest } = this.settings;
    const pieces = [];
    let from = 0;
    while (word.length <= longest && from < word.length) {
      let to = word.length, id;
      for (; to > from; to -= 1) {
        id = this.ids.get((from ? prefix : '') + word.slice(from, to).map(({ char }) => char).join(''));
        if (id !== undefined) break;
      }
      if (id === undefined) break;
      pieces.push({ id, start: word[from].start, end: word[to - 1].end });
      from = to;
    }
    if (from === word.length) found.push(...pieces);
    else found.push({ id: unknown, start: word[0].start, end: word.at(-1).end });
  }

  /**
   * A text, or two, as a row of at most `length` tokens: {ids, types, starts, ends}. types: 0 for the first text, 1 for
   * the second. starts, ends: places in the token's own text, -1 for [CLS] and [SEP].
   */
  encode(text, pair, length) {
    const { first, last } = this.settings;
    let one = this.tokens(text), other = pair === undefined ? undefined : this.tokens(pair);
    const [left, right] = kept(one.length, other ? other.length : 0, length - (other ? 3 : 2));
    const edge = (id) => ({ id, start: -1, end: -1 });
    one = [edge(first), ...one.slice(0, left), edge(last)];
    other = other ? [...other.slice(0, right), edge(last)] : [];
    const all = [...one, ...other];
    return {
      ids: all.map(({ id }) => id), types: all.map((_, place) => (place < one.length ? 0 : 1)),
      starts: all.map(({ start }) => start), ends: all.map(({ end }) => end),
    };
  }

  /** Places where the words of a text begin and end: what stands between blanks. */
  words(text) {
    const found = [];
    let begun = -1, at = 0;
    for (const char of text) {
      const codes = this.normalised(char.codePointAt(0));
      const blank = codes.length > 0 && codes.every((code) => within(this.settings.space, code));
      if (blank && begun >= 0) found.push([begun, at]);
      if (blank) begun = -1;
      else if (begun < 0) begun = at;
      at += char.length;
    }
    if (begun >= 0) found.push([begun, at]);
    return found;
  }
}
