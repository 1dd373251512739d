// Does a file answer here as it did when the bundle was made? For Node and for a page.

/**
 * Token ids and logits of golden.json against those of an open classifier. golden: parsed golden.json. file: the name of the
 * model file. Returns { said, fault }: a line on what was found, and what is wrong, undefined if nothing is.
 */
export const checkGolden = async (classifier, golden, file) => {
  let errors = 0, truths = 0;
  for (const row of golden.rows) {
    const made = classifier.tokenizer.encode(row.text, row.pair, golden.length);
    const expected = row.input_ids.slice(0, row.attention_mask.reduce((sum, one) => sum + one, 0));
    if (JSON.stringify(made.ids) !== JSON.stringify(expected)) return { fault: `other ids for ${JSON.stringify(row.text)}` };
    const truth = row.logits.flat();
    const logits = await classifier.logits(made);
    if (logits.length !== truth.length) return { fault: `${logits.length} logits instead of ${truth.length}` };
    truth.forEach((value, place) => {
      errors += (logits[place] - value) ** 2;
      truths += value ** 2;
    });
  }
  const off = Math.sqrt(errors / truths), bound = golden.bounds[file].relative_rmse;
  const said = `${golden.rows.length} golden rows: the same ids; logits off by ${off.toExponential(1)}, allowed ${bound.toExponential(1)}`;
  return { said, fault: off <= bound ? undefined : 'the logits are too far off' };
};
