import Foundation

/// golden.json.
struct Golden: Decodable {
    struct Row: Decodable {
        let text: String
        let pair: String?
        let ids, mask: [Int32]
        let logits: Logits

        enum CodingKeys: String, CodingKey {
            case text, pair, logits
            case ids = "input_ids"
            case mask = "attention_mask"
        }
    }
    struct Bound: Decodable {
        let relative: Double

        enum CodingKeys: String, CodingKey {
            case relative = "relative_rmse"
        }
    }
    /// One number for each label, or so many for each token.
    struct Logits: Decodable {
        let flat: [Double]

        init(from decoder: Decoder) throws {
            let box = try decoder.singleValueContainer()
            flat = try (try? box.decode([Double].self)) ?? box.decode([[Double]].self).flatMap { $0 }
        }
    }
    let rows: [Row]
    let bounds: [String: Bound]
}

/// Does a file answer here as it did when the bundle was made? file: the name of the model file that the classifier runs, empty
/// where no runtime is there, so that ids alone are compared. Returns a line on what was found, and what is wrong, nil if nothing is.
func checkGolden(_ classifier: Classifier, _ golden: Golden, _ file: String) throws -> (said: String?, fault: String?) {
    var errors = 0.0, truths = 0.0
    for row in golden.rows {
        let made = classifier.tokenizer.encode(row.text, row.pair, length: classifier.settings.length)
        if made.ids != Array(row.ids.prefix(row.mask.filter { $0 == 1 }.count)) { return (nil, "other ids for \(row.text)") }
        if file.isEmpty { continue }
        let logits = try classifier.logits(made)
        if logits.count != row.logits.flat.count { return (nil, "\(logits.count) logits instead of \(row.logits.flat.count)") }
        for (logit, truth) in zip(logits, row.logits.flat) {
            errors += (Double(logit) - truth) * (Double(logit) - truth)
            truths += truth * truth
        }
    }
    let same = "\(golden.rows.count) golden rows: the same ids; "
    guard let bound = golden.bounds[file]?.relative else { return (same + "no runtime here to compute logits", nil) }
    let off = (errors / truths).squareRoot()
    return (same + "logits off by \(off), allowed \(bound)", off <= bound ? nil : "the logits are too far off")
}
