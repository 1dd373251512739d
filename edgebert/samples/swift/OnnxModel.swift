#if canImport(onnxruntime_objc) || canImport(OnnxRuntimeBindings)
import Foundation
#if canImport(onnxruntime_objc)
import onnxruntime_objc
#else
import OnnxRuntimeBindings
#endif

/// The bundle's .onnx file with ONNX Runtime: the pod onnxruntime-objc, or the Swift package onnxruntime-swift-package-manager.
final class OnnxModel: Model {
    let lengths: [Int] = []
    private let environment: ORTEnv
    private let session: ORTSession
    private let names: Set<String>

    init(path: String, threads: Int) throws {
        environment = try ORTEnv(loggingLevel: .warning)
        let options = try ORTSessionOptions()
        try options.setIntraOpNumThreads(Int32(threads))
        session = try ORTSession(env: environment, modelPath: path, sessionOptions: options)
        names = Set(try session.inputNames())
    }

    func run(ids: [Int32], mask: [Int32], types: [Int32]) throws -> [Float] {
        let rows = ["input_ids": ids, "attention_mask": mask, "token_type_ids": types].filter { names.contains($0.key) }
        let outputs = try session.run(withInputs: rows.mapValues(tensor), outputNames: ["logits"], runOptions: nil)
        let data = try outputs["logits"]!.tensorData() as Data
        return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }

    private func tensor(_ values: [Int32]) throws -> ORTValue {
        let data = values.withUnsafeBytes { NSMutableData(bytes: $0.baseAddress, length: $0.count) }
        return try ORTValue(tensorData: data, elementType: .int32, shape: [1, NSNumber(value: values.count)])
    }
}
#endif
