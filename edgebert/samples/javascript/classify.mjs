// node classify.mjs "a text" ["a second text"]     or     node classify.mjs --golden

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

process.env.ORT_DISABLE_TELEMETRY = '1';
const ort = await import('onnxruntime-node');
const { Classifier } = await import('./classifier.mjs');
const { checkGolden } = await import('./golden.mjs');

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

if (values.golden) {
  const golden = JSON.parse(await read(point === 1 ? 'golden.json' : `golden_point${point}.json`));
  const { said, fault } = await checkGolden(classifier, golden, file);
  if (said) console.log(said);
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
