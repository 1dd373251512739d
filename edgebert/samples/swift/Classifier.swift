import Foundation

/// app.json.
struct AppSettings: Decodable {
    let kind: String
    let pairs: Bool
    let length, threads: Int
    let models: [String: String]
    let points: [[String: String]]
    let tokenizer: TokenizerSettings
}

/// A runtime with the bundle's model file open.
protocol Model {
    /// The lengths of rows it takes, smallest first; none for any length.
    var lengths: [Int] { get }

    /// One row -> logits: one for each label, or so many for each token of the row. All three arrays are of one length.
    func run(ids: [Int32], mask: [Int32], types: [Int32]) throws -> [Float]
}

/// score: a probability; the number itself for a regression; a sum of two logits for an answer from a text.
struct Answer {
    var text: String?
    var label: String?
    let score: Double
}

/// From a text to an answer.
struct Classifier {
    static let longestAnswer = 30  // tokens
    let settings: AppSettings
    let labels: [String]
    let tokenizer: WordPiece
    let model: Model

    /// app, labels, vocabulary: the contents of app.json, labels.json and vocab.txt.
    init(app: Data, labels: Data, vocabulary: Data, model: Model) throws {
        settings = try JSONDecoder().decode(AppSettings.self, from: app)
        self.labels = try JSONDecoder().decode([String].self, from: labels)
        tokenizer = WordPiece(settings: settings.tokenizer, vocabulary: vocabulary)
        self.model = model
    }

    /// What the model says about a text, or a pair of texts: labels with the likeliest first, the labels that apply, a
    /// number, a tag for each word, or a piece of the second text.
    func classify(_ text: String, _ pair: String? = nil) throws -> [Answer] {
        let row = tokenizer.encode(text, pair, length: settings.length)
        return read(try logits(row), row, text, pair ?? "")
    }

    func logits(_ row: Row) throws -> [Float] {
        let count = row.tokens.count
        let length = model.lengths.first { $0 >= count } ?? count
        let padding = [Int32](repeating: 0, count: length - count)
        let logits = try model.run(
            ids: row.ids + padding.map { _ in settings.tokenizer.pad }, mask: row.ids.map { _ in 1 } + padding,
            types: row.types + padding)
        let perToken = ["token_classification", "question_answering"].contains(settings.kind)
        return perToken ? Array(logits.prefix(count * (logits.count / length))) : logits
    }

    /// What the logits of a row say.
    func read(_ logits: [Float], _ row: Row, _ text: String, _ pair: String) -> [Answer] {
        switch settings.kind {
        case "single_label_classification":
            return zip(labels, Self.softmax(logits)).map { Answer(label: $0, score: $1) }.sorted { $0.score > $1.score }
        case "multi_label_classification":
            return zip(labels, logits).map { Answer(label: $0, score: 1 / (1 + exp(-Double($1)))) }.filter { $0.score > 0.5 }
        case "regression":
            return [Answer(score: Double(logits[0]))]
        case "token_classification":
            return tags(logits, row, text)
        default:
            return [answer(logits, row, pair)]
        }
    }

    /// The tag of each word is that of the first token in it.
    private func tags(_ logits: [Float], _ row: Row, _ text: String) -> [Answer] {
        var found: [Answer] = []
        var token = 0
        for word in tokenizer.words(text) {
            while token < row.tokens.count && row.tokens[token].end <= word.lowerBound { token += 1 }
            if token == row.tokens.count || row.tokens[token].start >= word.upperBound { continue }  // nothing left of it
            let scores = Self.softmax(Array(logits[token * labels.count..<(token + 1) * labels.count]))
            let best = scores.indices.max { scores[$0] < scores[$1] }!
            found.append(Answer(text: Self.part(of: text, word), label: labels[best], score: scores[best]))
        }
        return found
    }

    /// The piece of the context with the largest sum of a start and an end.
    private func answer(_ logits: [Float], _ row: Row, _ context: String) -> Answer {
        var best = Answer(text: "", score: -.infinity)
        let inside = row.tokens.indices.filter { row.types[$0] == 1 && row.tokens[$0].start >= 0 }
        for first in inside {
            for last in inside where last >= first && last < first + Self.longestAnswer {
                let score = Double(logits[2 * first]) + Double(logits[2 * last + 1])
                if score > best.score {
                    best = Answer(text: Self.part(of: context, row.tokens[first].start..<row.tokens[last].end), score: score)
                }
            }
        }
        return best
    }

    private static func part(of text: String, _ places: Range<Int>) -> String {
        String(String.UnicodeScalarView(Array(text.unicodeScalars)[places]))
    }

    private static func softmax(_ logits: [Float]) -> [Double] {
        let largest = logits.max()!
        let powers = logits.map { exp(Double($0 - largest)) }
        let sum = powers.reduce(0, +)
        return powers.map { $0 / sum }
    }
}
