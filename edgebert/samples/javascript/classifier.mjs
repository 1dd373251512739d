// From a text to an answer, with ONNX Runtime: the same file serves a browser (onnxruntime-web) and Node (onnxruntime-node).

import { WordPiece } from './wordpiece.mjs';

const LONGEST_ANSWER = 30; // tokens

/**
 * Which operating point to run of so many, 1 the largest: a step down for each degree of heat, and one to save the battery.
 * heat: 0 as usual, 1 the system throttles, 2 it is about to stop. saving: low battery, or power-saving mode. A page is told
 * neither; some browsers have navigator.getBattery().
 */
export const pointFor = (points, heat = 0, saving = false) => Math.min(points, 1 + heat + (saving ? 1 : 0));

export class Classifier {
  /**
   * ort: the module onnxruntime-web or onnxruntime-node. app, labels: parsed app.json and labels.json. vocabulary: the
   * content of vocab.txt. model: the bytes of the .onnx file, or its address. weights: of operating points, in a browser,
   * where their weights are: [{ path: 'model.onnx.data', data: address }]; Node finds them beside the file.
   */
  static async create(ort, { app, labels, vocabulary, model, weights }) {
    const options = { intraOpNumThreads: app.threads, ...(weights && { externalData: weights }) };
    const session = await ort.InferenceSession.create(model, options);
    return new Classifier(ort, session, app, labels, new WordPiece(app.tokenizer, vocabulary));
  }

  constructor(ort, session, app, labels, tokenizer) {
    Object.assign(this, { ort, session, app, labels, tokenizer });
  }

  /** The answers to a text, or to a pair of texts; see `read`. */
  async classify(text, pair) {
    const row = this.tokenizer.encode(text, pair, this.app.length);
    return this.read(await this.logits(row), row, text, pair);
  }

  /** A row of tokens -> its logits, flat: one for each label, or so many for each token of the row. */
  async logits(row) {
    const [ids] = this.session.inputMetadata;
    const length = typeof ids.shape[1] === 'number' && ids.shape[1] > 0 ? ids.shape[1] : row.ids.length;
    const values = { input_ids: row.ids, attention_mask: row.ids.map(() => 1), token_type_ids: row.types };
    const feeds = {};
    for (const { name, type } of this.session.inputMetadata) {
      const filler = name === 'input_ids' ? this.app.tokenizer.pad : 0;
      const padded = [...values[name], ...Array(length - row.ids.length).fill(filler)];
      const data = type === 'int64' ? BigInt64Array.from(padded, BigInt) : Int32Array.from(padded);
      feeds[name] = new this.ort.Tensor(type, data, [1, length]);
    }
    const { logits } = await this.session.run(feeds);
    return logits.dims.length === 3 ? logits.data.slice(0, row.ids.length * logits.dims[2]) : logits.data;
  }

  /**
   * What the logits say, as a list. One label: all labels, the likeliest first. Several labels: those that apply. A
   * number: {score}. Tags: one for each word. An answer: the piece of the second text, its score a sum of logits.
   */
  read(logits, row, text, pair) {
    const { labels } = this;
    switch (this.app.kind) {
      case 'single_label_classification':
        return softmax(logits).map((score, place) => ({ label: labels[place], score }))
          .sort((a, b) => b.score - a.score);
      case 'multi_label_classification':
        return Array.from(logits, (logit, place) => ({ label: labels[place], score: 1 / (1 + Math.exp(-logit)) }))
          .filter(({ score }) => score > 0.5);
      case 'regression':
        return [{ score: logits[0] }];
      case 'token_classification':
        return this.#tags(logits, row, text);
      default:
        return this.#answer(logits, row, pair);
    }
  }

  #tags(logits, row, text) {
    const { labels } = this, found = [];
    const words = this.tokenizer.words(text);
    let token = 0;
    for (const [start, end] of words) {
      while (token < row.ids.length && row.ends[token] <= start) token += 1; // [CLS], and what belongs to words before
      if (token === row.ids.length || row.starts[token] >= end) continue; // cut off, or nothing left of the word
      const scores = softmax(logits.slice(token * labels.length, (token + 1) * labels.length));
      const best = scores.indexOf(Math.max(...scores));
      found.push({ text: text.slice(start, end), label: labels[best], score: scores[best] });
    }
    return found;
  }

  #answer(logits, row, context) {
    let best = { text: '', score: -Infinity };
    const inside = row.ids.map((_, place) => place).filter((place) => row.types[place] === 1 && row.starts[place] >= 0);
    for (const first of inside) {
      for (const last of inside.filter((place) => place >= first && place < first + LONGEST_ANSWER)) {
        const score = logits[2 * first] + logits[2 * last + 1];
        if (score > best.score) best = { text: context.slice(row.starts[first], row.ends[last]), score };
      }
    }
    return [best];
  }
}

export const softmax = (logits) => {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, one) => total + one, 0);
  return powers.map((power) => power / sum);
};
