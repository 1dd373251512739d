// BUNDLE "a text" ["a second text"], or BUNDLE --golden; --point N first for that one. An app leaves this file out.

import Foundation

/// A platform without either runtime: texts become tokens there and no answers.
struct NoModel: Model {
    let lengths: [Int] = []
    func run(ids: [Int32], mask: [Int32], types: [Int32]) -> [Float] { [] }
}

/// The model file, opened, and its name.
func openModel(_ bundle: URL, _ settings: AppSettings, _ point: Int) throws -> (Model, String) {
    #if canImport(onnxruntime_objc) || canImport(OnnxRuntimeBindings)
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
        let (said, fault) = try checkGolden(classifier, golden, file)
        if let said { print(said) }
        if let fault { fail(fault) }
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
