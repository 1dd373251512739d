#if canImport(SwiftUI)
import SwiftUI

/// A text field, the answers below it, and how long they took. Give it to an app's window: `WindowGroup { LabelView() }`.
public struct LabelView: View {
    @State private var labeller: Labeller?
    @State private var text = ""
    @State private var pair = ""
    @State private var labelled: Labelled?
    @State private var said = "opening the model"

    public init() {}

    public var body: some View {
        Form {
            TextField("Text", text: $text, axis: .vertical)
            if labeller?.pairs == true {
                TextField("Second text", text: $pair, axis: .vertical)
            }
            Section("Answers") {
                ForEach(labelled?.answers.prefix(5).map { $0 } ?? []) { one in
                    LabeledContent(one.name, value: one.score, format: .number.precision(.fractionLength(3)))
                }
            }
            Section {
                Text(said).font(.footnote)
                Button("Check golden.json here") { Task { await checkGolden() } }.disabled(labeller == nil)
            }
        }
        .task { open() }
        .task(id: [text, pair]) { await answer() }
    }

    private func open() {
        do {
            labeller = try Labeller()
            said = "ready"
        } catch {
            said = "\(error)"
        }
    }

    /// Runs at every change of the texts, and is cancelled by the next one: a pause in typing lets it go on.
    private func answer() async {
        guard (try? await Task.sleep(for: .milliseconds(150))) != nil, let labeller else { return }
        guard !text.isEmpty else {
            labelled = nil
            return
        }
        do {
            let found = try await labeller.label(text, pair)
            labelled = found
            said = "\(found.milliseconds.formatted(.number.precision(.fractionLength(1)))) ms, \(found.tokens) tokens, \(found.file)"
        } catch {
            said = "\(error)"
        }
    }

    private func checkGolden() async {
        guard let labeller else { return }
        do {
            let (line, fault) = try await labeller.checkGolden()
            said = [line, fault].compactMap { $0 }.joined(separator: "; ")
        } catch {
            said = "\(error)"
        }
    }
}
#endif
