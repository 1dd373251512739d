// BUNDLE "a text" ["a second text"], or BUNDLE --golden; --point N first for that one. An app leaves this file out.

import Foundation

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

/// A platform without either runtime: texts become tokens there and no answers.
struct NoModel: Model {
    let lengths: [Int] = []
    func run(ids: [Int32], mask: [Int32], types: [Int32]) -> [Float] { [] }
}

/// The model file, opened, and its name.
func openModel(_ bundle: URL, _ settings: AppSettings, _ point: Int) throws -> (Model, String) {
    #if canImport(onnxruntime_objc)
    if let file = settings.points[point - 1]["onnx"] {
        return (try OnnxModel(path: bundle.appendingPathComponent(file).path, threads: settings.threads), file)
    }
    #endif
    #if canImport(TensorFlowLite)
    if let file = settings.points[point - 1]["tflite"] {
        return (try LiteRtModel(path: bundle.appendingPathComponent(file).path, threads: settings.threads, point: point), file)
    }
    #endif
    return (NoModel(), "")
}

/// Ids and logits of golden.json against our own. Returns what is wrong, nil if nothing is.
func checkGolden(_ classifier: Classifier, _ golden: Golden, _ file: String) throws -> String? {
    var errors = 0.0, truths = 0.0
    for row in golden.rows {
        let made = classifier.tokenizer.encode(row.text, row.pair, length: classifier.settings.length)
        if made.ids != Array(row.ids.prefix(row.mask.filter { $0 == 1 }.count)) { return "other ids for \(row.text)" }
        if file.isEmpty { continue }
        let logits = try classifier.logits(made)
        if logits.count != row.logits.flat.count { return "\(logits.count) logits instead of \(row.logits.flat.count)" }
        for (logit, truth) in zip(logits, row.logits.flat) {
            errors += (Double(logit) - truth) * (Double(logit) - truth)
            truths += truth * truth
        }
    }
    guard let bound = golden.bounds[file]?.relative else {
        print("\(golden.rows.count) golden rows: the same ids; no runtime here to compute logits")
        return nil
    }
    let off = (errors / truths).squareRoot()
    print("\(golden.rows.count) golden rows: the same ids; logits off by \(off), allowed \(bound)")
    return off <= bound ? nil : "the logits are too far off"
}

func fail(_ reason: String, _ code: Int32 = 1) -> Never {
    FileHandle.standardError.write(Data("\(reason)\n".utf8))
    exit(code)
}

var words = CommandLine.arguments
var point = 1
if words.count > 2, words[1] == "--point", let asked = Int(words[2]) {
    point = asked
    words.removeSubrange(1...2)
}
guard (3...4).contains(words.count) else {
    fail("give BUNDLE and a text, BUNDLE and two texts, or BUNDLE and --golden", 2)
}
let bundle = URL(fileURLWithPath: words[1])
let content = { (name: String) in try Data(contentsOf: bundle.appendingPathComponent(name)) }
do {
    let app = try content("samples/app.json")
    let settings = try JSONDecoder().decode(AppSettings.self, from: app)
    guard (1...settings.points.count).contains(point) else {
        fail("this bundle has \(settings.points.count) operating points, and no \(point)", 2)
    }
    let (model, file) = try openModel(bundle, settings, point)
    let classifier = try Classifier(
        app: app, labels: try content("labels.json"), vocabulary: try content("vocab.txt"), model: model)
    let second = words.count == 4 ? words[3] : nil
    if words[2] == "--golden" {
        let golden = try JSONDecoder().decode(Golden.self, from: try content(point == 1 ? "golden.json" : "golden_point\(point).json"))
        if let fault = try checkGolden(classifier, golden, file) { fail(fault) }
    } else if file.isEmpty {
        print(classifier.tokenizer.encode(words[2], second, length: classifier.settings.length).ids)
    } else {
        for one in try classifier.classify(words[2], second) {
            print([one.text, one.label, String(format: "%.4f", one.score)].compactMap { $0 }.joined(separator: "\t"))
        }
    }
} catch {
    fail("\(error)")
}
