#if canImport(TensorFlowLite)
import Foundation
import TensorFlowLite

/// The bundle's .tflite file (pod TensorFlowLiteSwift, 2.17 or later). Its signatures are named for their lengths, and for the
/// operating point: "seq_32" of the first, "point2_seq_32" of the second. `point` may be changed between two calls.
final class LiteRtModel: Model {
    let lengths: [Int]
    var point: Int
    private let interpreter: Interpreter

    init(path: String, threads: Int, point: Int = 1) throws {
        self.point = point
        var options = Interpreter.Options()
        options.threadCount = threads
        interpreter = try Interpreter(modelPath: path, options: options)
        lengths = interpreter.signatureKeys.filter { $0.hasPrefix("seq_") }.compactMap { Int($0.dropFirst("seq_".count)) }.sorted()
    }

    func run(ids: [Int32], mask: [Int32], types: [Int32]) throws -> [Float] {
        let runner = try interpreter.signatureRunner(with: (point == 1 ? "" : "point\(point)_") + "seq_\(ids.count)")
        let rows = ["input_ids": ids, "attention_mask": mask, "token_type_ids": types]
        let wanted = rows.filter { runner.inputs.contains($0.key) }
        try runner.invoke(with: wanted.mapValues { values in values.withUnsafeBytes { Data($0) } })
        return try runner.output(named: "logits").data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}
#endif
