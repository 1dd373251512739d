// node classify.mjs "a text" ["a second text"]     or     node classify.mjs --golden

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

process.env.ORT_DISABLE_TELEMETRY = '1';
const ort = await import('onnxruntime-node');
const { Classifier } = await import('./classifier.mjs');

const { values, positionals: [text, pair] } = parseArgs({
  allowPositionals: true,
  options: { golden: { type: 'boolean' }, point: { type: 'string', default: '1' }, bundle: { type: 'string', default: fileURLToPath(new URL('../..', import.meta.url)) } },
});
const read = (name) => readFile(`${values.bundle}/${name}`, 'utf8');
const app = JSON.parse(await read('samples/app.json'));
const point = Number(values.point), file = app.points[point - 1]?.onnx;
if (file === undefined) {
  console.error(`this bundle has ${app.points.length} operating points, and no ${values.point}`);
  process.exit(2);
}
const classifier = await Classifier.create(ort, {
  app, labels: JSON.parse(await read('labels.json')), vocabulary: await read('vocab.txt'),
  model: `${values.bundle}/${file}`,
});

/** Ids and logits of golden.json against our own. Returns what is wrong, undefined if nothing is. */
const checkGolden = async () => {
  const golden = JSON.parse(await read(point === 1 ? 'golden.json' : `golden_point${point}.json`));
  let errors = 0, truths = 0;
  for (const row of golden.rows) {
    const made = classifier.tokenizer.encode(row.text, row.pair, golden.length);
    const expected = row.input_ids.slice(0, row.attention_mask.reduce((sum, one) => sum + one, 0));
    if (JSON.stringify(made.ids) !== JSON.stringify(expected)) return `other ids for ${JSON.stringify(row.text)}`;
    const truth = row.logits.flat();
    const logits = await classifier.logits(made);
    if (logits.length !== truth.length) return `${logits.length} logits instead of ${truth.length}`;
    truth.forEach((value, place) => {
      errors += (logits[place] - value) ** 2;
      truths += value ** 2;
    });
  }
  const off = Math.sqrt(errors / truths), bound = golden.bounds[file].relative_rmse;
  console.log(`${golden.rows.length} golden rows: the same ids; logits off by ${off.toExponential(1)}, allowed ${bound.toExponential(1)}`);
  return off <= bound ? undefined : 'the logits are too far off';
};

if (values.golden) {
  const fault = await checkGolden();
  if (fault) {
    console.error(fault);
    process.exitCode = 1;
  }
} else if (text === undefined) {
  console.error('give a text, or --golden');
  process.exitCode = 2;
} else {
  for (const one of await classifier.classify(text, pair)) {
    console.log([one.text, one.label, one.score.toFixed(4)].filter((part) => part !== undefined).join('\t'));
  }
}
