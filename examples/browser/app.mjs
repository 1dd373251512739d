// A bundle, copied to ./bundle, in a page: its own tokenizer and classifier, with onnxruntime-web. Nothing leaves the page.

import * as ort from 'onnxruntime-web';

import { Classifier } from './bundle/samples/javascript/classifier.mjs';
import { checkGolden } from './bundle/samples/javascript/golden.mjs';

const PAUSE_MS = 150; // after the last key, before the model runs
const SHOWN = 8; // answers

const element = (id) => document.getElementById(id);
const say = (text) => { element('state').textContent = text; };

const fetched = async (name) => {
  const found = await fetch(`bundle/${name}`);
  if (!found.ok) throw new Error(`bundle/${name}: ${found.status}; copy a bundle with an ONNX file to ./bundle`);
  return found;
};

const open = async () => {
  if (!globalThis.crossOriginIsolated) ort.env.wasm.numThreads = 1; // threads need headers that few servers send
  const [app, labels, vocabulary] = await Promise.all([
    fetched('samples/app.json').then((found) => found.json()), fetched('labels.json').then((found) => found.json()),
    fetched('vocab.txt').then((found) => found.text())]);
  if (!app.models.onnx) throw new Error('this bundle has no ONNX file: make one with --runtime onnx or both');
  const began = performance.now();
  const weights = app.points.length > 1 ? [{ path: `${app.models.onnx}.data`, data: `bundle/${app.models.onnx}.data` }] : undefined;
  const classifier = await Classifier.create(ort, { app, labels, vocabulary, model: `bundle/${app.models.onnx}`, weights });
  say(`${app.models.onnx}, opened in ${(performance.now() - began).toFixed(0)} ms`);
  return classifier;
};

/** The open classifier; rejected where there is none. */
export const ready = open();

const shown = ({ text, label, score }) => {
  const line = document.createElement('li'), bar = document.createElement('meter'), number = document.createElement('span');
  const name = document.createElement('span');
  name.textContent = [text, label].filter((part) => part !== undefined).join(': ') || 'score';
  bar.value = score;
  number.textContent = score.toFixed(3);
  number.className = 'number';
  line.append(name, bar, number);
  return line;
};

const classify = async (classifier) => {
  const text = element('text').value, pair = classifier.app.pairs ? element('pair').value : undefined;
  if (!text.trim()) {
    element('answers').replaceChildren();
    return;
  }
  const began = performance.now();
  const answers = await classifier.classify(text, pair);
  say(`${(performance.now() - began).toFixed(1)} ms from text to answer`);
  element('answers').replaceChildren(...answers.slice(0, SHOWN).map(shown));
};

/** A function that runs `act` once the calls have paused, and never twice at a time: one session runs one row. */
const paused = (act) => {
  let timer, running = Promise.resolve();
  return () => {
    clearTimeout(timer);
    timer = setTimeout(() => { running = running.then(act).catch((error) => say(error.message)); }, PAUSE_MS);
  };
};

try {
  const classifier = await ready;
  const react = paused(() => classify(classifier));
  for (const box of [element('text'), element('pair')]) box.addEventListener('input', react);
  element('second').hidden = !classifier.app.pairs;
  element('golden').addEventListener('click', async () => {
    element('golden').disabled = true;
    try {
      const golden = await (await fetched('golden.json')).json();
      const { said, fault } = await checkGolden(classifier, golden, classifier.app.models.onnx);
      say([said, fault].filter((part) => part !== undefined).join('; '));
    } catch (error) {
      say(error.message);
    }
    element('golden').disabled = false;
  });
  element('text').disabled = element('golden').disabled = false;
  element('text').focus();
} catch (error) {
  say(error.message);
}
