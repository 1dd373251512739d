import Foundation

/// One answer, for a view. score: a probability; the number itself for a regression.
public struct Found: Identifiable, Equatable, Sendable {
    public let id: Int
    public let name: String
    public let score: Double
}

/// What came of one text. milliseconds: from the text to the answers, tokenizer and all.
public struct Labelled: Equatable, Sendable {
    public let answers: [Found]
    public let file: String
    public let tokens: Int
    public let milliseconds: Double
}

public enum LabellerError: Error, CustomStringConvertible {
    case noRuntime
    case noPoint(Int)

    public var description: String {
        switch self {
        case .noRuntime: return "there is no ONNX Runtime here: texts become tokens, and no answers"
        case .noPoint(let point): return "this bundle has no operating point \(point)"
        }
    }
}

/// A bundle, answering with the operating point that each call asks for. One model is open at a time, and one call runs at a time.
public actor Labeller {
    private let folder: URL
    private let settings: AppSettings
    private var opened: (point: Int, file: String, classifier: Classifier)?

    /// Whether the model reads two texts.
    public nonisolated let pairs: Bool
    /// How many operating points the files hold, 1 the largest.
    public nonisolated let points: Int

    /// folder: a bundle, or a copy of what an app needs of it. Throws where a file is missing or damaged.
    public init(folder: URL) throws {
        self.folder = folder
        settings = try JSONDecoder().decode(AppSettings.self, from: Data(contentsOf: folder.appendingPathComponent("samples/app.json")))
        pairs = settings.pairs
        points = settings.points.count
    }

    /// The bundle that take-bundle.sh put into this package.
    public init() throws {
        let resources = Bundle.module.resourceURL ?? Bundle.module.bundleURL  // they are not the same on a Mac
        try self.init(folder: resources.appendingPathComponent("bundle"))
    }

    /// point: nil for the one that fits the heat and the battery of this device now.
    public func label(_ text: String, _ pair: String? = nil, point: Int? = nil) throws -> Labelled {
        let here = try open(point ?? fitting)
        guard !here.file.isEmpty else { throw LabellerError.noRuntime }
        let second = pairs ? pair ?? "" : nil
        let began = DispatchTime.now()
        let answers = try here.classifier.classify(text, second)
        let took = Double(DispatchTime.now().uptimeNanoseconds - began.uptimeNanoseconds) / 1e6
        let found = answers.enumerated().map { place, one in
            Found(id: place, name: [one.text, one.label].compactMap { $0 }.joined(separator: ": "), score: one.score)
        }
        return Labelled(answers: found, file: here.file, tokens: tokens(text, second, here.classifier).count, milliseconds: took)
    }

    /// Token ids of a text, which need no runtime.
    public func tokens(_ text: String, _ pair: String? = nil) throws -> [Int32] {
        tokens(text, pairs ? pair ?? "" : nil, try open(1).classifier)
    }

    /// The point's golden rows on this very device: a line on what was found, and what is wrong, nil if nothing is.
    public func checkGolden(point: Int = 1) throws -> (said: String?, fault: String?) {
        let here = try open(point)
        let name = point == 1 ? "golden.json" : "golden_point\(point).json"
        let golden = try JSONDecoder().decode(Golden.self, from: Data(contentsOf: folder.appendingPathComponent(name)))
        return try BundleKit.checkGolden(here.classifier, golden, here.file)
    }

    private var fitting: Int {
        #if canImport(Darwin)
        return pointForThisDevice(points: points)
        #else
        return 1
        #endif
    }

    private func tokens(_ text: String, _ pair: String?, _ classifier: Classifier) -> [Int32] {
        classifier.tokenizer.encode(text, pair, length: settings.length).ids
    }

    private func open(_ point: Int) throws -> (point: Int, file: String, classifier: Classifier) {
        if let opened, opened.point == point { return opened }
        guard (1...points).contains(point) else { throw LabellerError.noPoint(point) }
        opened = nil
        let content = { (name: String) in try Data(contentsOf: self.folder.appendingPathComponent(name)) }
        let (model, file) = try model(point)
        let made = (point, file, try Classifier(
            app: content("samples/app.json"), labels: content("labels.json"), vocabulary: content("vocab.txt"), model: model))
        opened = made
        return made
    }

    private func model(_ point: Int) throws -> (Model, String) {
        #if canImport(onnxruntime_objc) || canImport(OnnxRuntimeBindings)
        guard let file = settings.points[point - 1]["onnx"] else { throw LabellerError.noPoint(point) }
        return (try OnnxModel(path: folder.appendingPathComponent(file).path, threads: settings.threads), file)
        #else
        return (NoModel(), "")
        #endif
    }
}

/// Where there is no runtime.
struct NoModel: Model {
    let lengths: [Int] = []
    func run(ids: [Int32], mask: [Int32], types: [Int32]) throws -> [Float] { throw LabellerError.noRuntime }
}
