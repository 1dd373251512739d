import Foundation

/// A token of a text: its number, and where it stands, in Unicode scalars; -1 for [CLS] and [SEP].
struct Token {
    let id: Int32
    let start: Int
    let end: Int
}

/// A text, or two, as the model takes it. types: 0 for the first text, 1 for the second.
struct Row {
    let tokens: [Token]
    let types: [Int32]
    var ids: [Int32] { tokens.map { $0.id } }
}

/// "tokenizer" of app.json.
struct TokenizerSettings: Decodable {
    let unknown, first, last, pad: Int32
    let prefix: String
    let longestWord: Int
    let special: [String: Int32]
    let removed, spaced, space, punctuation: [[UInt32]]
    let hangul: Bool
    let from: [UInt32]
    let to: [String]

    enum CodingKeys: String, CodingKey {
        case unknown, first, last, pad, prefix, special, removed, spaced, space, punctuation, hangul, from, to
        case longestWord = "longest_word"
    }
}

/// BERT's WordPiece tokenizer: the ids that Hugging Face `tokenizers` gives.
///
/// What each character becomes stands in app.json, so the answer does not depend on the Unicode tables of the system.
/// Texts are compared by their scalars: Swift's own strings are equal where they only look the same.
struct WordPiece {
    let settings: TokenizerSettings
    private let ids: [[UInt8]: Int32]
    private let special: [(scalars: [UInt32], id: Int32)]
    private let changes: [UInt32: [UInt32]]

    /// vocabulary: the content of vocab.txt.
    init(settings: TokenizerSettings, vocabulary: Data) {
        self.settings = settings
        var found: [[UInt8]: Int32] = [:]
        var lines = vocabulary.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        if lines.last?.isEmpty == true { lines.removeLast() }
        for (id, piece) in lines.enumerated() { found[Array(piece)] = Int32(id) }
        ids = found
        special = settings.special.map { (scalars: $0.key.unicodeScalars.map { $0.value }, id: $0.value) }
            .sorted { $0.scalars.count > $1.scalars.count }
        changes = Dictionary(uniqueKeysWithValues: zip(settings.from, settings.to.map { $0.unicodeScalars.map { $0.value } }))
    }

    /// The tokens of one text, without [CLS] and [SEP].
    func tokens(_ text: String) -> [Token] {
        let scalars = text.unicodeScalars.map { $0.value }
        var found: [Token] = []
        var word: [Place] = []
        func close() {
            if !word.isEmpty { found += pieces(word) }
            word.removeAll()
        }
        var at = 0
        while at < scalars.count {
            if let name = special.first(where: { scalars[at...].starts(with: $0.scalars) }) {
                close()
                found.append(Token(id: name.id, start: at, end: at + name.scalars.count))
                at += name.scalars.count
                continue
            }
            for code in normalised(scalars[at]) {
                let alone = within(settings.punctuation, code), blank = within(settings.space, code)
                if alone || blank { close() }
                if !blank { word.append(Place(code: code, start: at)) }
                if alone { close() }
            }
            at += 1
        }
        close()
        return found
    }

    /// A row of at most `length` tokens.
    func encode(_ text: String, _ pair: String?, length: Int) -> Row {
        let one = tokens(text), other = pair.map { tokens($0) }
        let stay = Self.kept(one.count, other?.count ?? 0, room: length - (other == nil ? 2 : 3))
        let first = Token(id: settings.first, start: -1, end: -1), last = Token(id: settings.last, start: -1, end: -1)
        let begin = [first] + one.prefix(stay.0) + [last]
        let rest = other.map { Array($0.prefix(stay.1)) + [last] } ?? []
        return Row(tokens: begin + rest, types: begin.map { _ in 0 } + rest.map { _ in 1 })
    }

    /// Where the words of a text stand: what is between blanks.
    func words(_ text: String) -> [Range<Int>] {
        var found: [Range<Int>] = []
        var begun: Int?
        for (at, scalar) in text.unicodeScalars.enumerated() {
            let codes = normalised(scalar.value)
            if !codes.isEmpty && codes.allSatisfy({ within(settings.space, $0) }) {
                if let start = begun { found.append(start..<at) }
                begun = nil
            } else if begun == nil {
                begun = at
            }
        }
        if let start = begun { found.append(start..<text.unicodeScalars.count) }
        return found
    }

    /// How many tokens of each text stay where `room` are allowed: the longer one is cut first.
    static func kept(_ first: Int, _ second: Int, room: Int) -> (Int, Int) {
        if first + second <= room { return (first, second) }
        var less = min(first, second)
        var longer = less > room ? less : max(less, room - less)
        if less + longer > room {
            less = room / 2
            longer = less + room % 2
        }
        return first > second ? (longer, less) : (less, longer)
    }

    private struct Place {
        let code: UInt32
        let start: Int
    }

    /// What a character becomes.
    private func normalised(_ code: UInt32) -> [UInt32] {
        if let changed = changes[code] { return changed }
        if settings.hangul && (0xAC00...0xD7A3).contains(code) {
            let index = code - 0xAC00
            let letters = [0x1100 + index / 588, 0x1161 + index % 588 / 28]
            return index % 28 == 0 ? letters : letters + [0x11A7 + index % 28]
        }
        if within(settings.removed, code) { return [] }
        return within(settings.spaced, code) ? [0x20, code, 0x20] : [code]
    }

    /// The longest piece that the word starts with, then the longest that the rest starts with; unknown if none fits.
    private func pieces(_ word: [Place]) -> [Token] {
        var found: [Token] = []
        var from = 0
        while word.count <= settings.longestWord && from < word.count {
            var whole = from > 0 ? Array(settings.prefix.utf8) : []
            var ends: [Int] = []
            for place in word[from...] {
                whole += Array(String(Unicode.Scalar(place.code)!).utf8)
                ends.append(whole.count)
            }
            guard let count = (1...ends.count).last(where: { ids[Array(whole[..<ends[$0 - 1]])] != nil }) else { break }
            found.append(Token(id: ids[Array(whole[..<ends[count - 1]])]!, start: word[from].start,
                               end: word[from + count - 1].start + 1))
            from += count
        }
        if from == word.count { return found }
        return [Token(id: settings.unknown, start: word[0].start, end: word[word.count - 1].start + 1)]
    }

    private func within(_ ranges: [[UInt32]], _ code: UInt32) -> Bool {
        var low = 0, high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if code < ranges[middle][0] {
                high = middle
            } else if code > ranges[middle][1] {
                low = middle + 1
            } else {
                return true
            }
        }
        return false
    }
}
