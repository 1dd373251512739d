package edgebert

import java.nio.MappedByteBuffer
import org.tensorflow.lite.Interpreter

/**
 * The bundle's .tflite file with LiteRT: com.google.ai.edge.litert:litert. Its signatures are named for their lengths, and for
 * the operating point: "seq_32" of the first, "point2_seq_32" of the second. [point] may be changed between two calls.
 */
class LiteRtModel(content: MappedByteBuffer, threads: Int, var point: Int = 1) : Model {
    private val interpreter = Interpreter(content, Interpreter.Options().setNumThreads(threads))

    override val lengths = interpreter.signatureKeys.filter { it.startsWith("seq_") }.map { it.removePrefix("seq_").toInt() }.sorted()

    override fun run(ids: IntArray, mask: IntArray, types: IntArray): FloatArray {
        val key = (if (point == 1) "" else "point${point}_") + "seq_${ids.size}"
        val rows = mapOf("input_ids" to ids, "attention_mask" to mask, "token_type_ids" to types)
        val feeds = interpreter.getSignatureInputs(key).associateWith { arrayOf(rows.getValue(it)) }
        val shape = interpreter.getOutputTensorFromSignature("logits", key).shape()
        if (shape.size == 2) {
            val logits = arrayOf(FloatArray(shape[1]))
            interpreter.runSignature(feeds, mapOf("logits" to logits), key)
            return logits[0]
        }
        val logits = arrayOf(Array(shape[1]) { FloatArray(shape[2]) })
        interpreter.runSignature(feeds, mapOf("logits" to logits), key)
        return logits[0].flatMap { it.asList() }.toFloatArray()
    }

    override fun close() = interpreter.close()
}
