package edgebert

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.nio.IntBuffer
import java.nio.LongBuffer

/**
 * One of the bundle's .onnx files with ONNX Runtime: com.microsoft.onnxruntime:onnxruntime, or onnxruntime-android. Of operating
 * points each is a file, and the weights lie in another one beside them: those are opened by their path.
 */
class OnnxModel private constructor(private val session: OrtSession) : Model {
    constructor(content: ByteArray, threads: Int) : this(environment.createSession(content, options(threads)))

    constructor(path: String, threads: Int) : this(environment.createSession(path, options(threads)))

    private val inputs = session.inputInfo.mapValues { it.value.info as TensorInfo }

    override val lengths = inputs.getValue("input_ids").shape[1].toInt().let { if (it > 0) listOf(it) else listOf() }

    override fun run(ids: IntArray, mask: IntArray, types: IntArray): FloatArray {
        val rows = mapOf("input_ids" to ids, "attention_mask" to mask, "token_type_ids" to types)
        val feeds = inputs.mapValues { (name, info) -> tensor(rows.getValue(name), info.type == OnnxJavaType.INT64) }
        try {
            return session.run(feeds).use { found ->
                (found["logits"].get() as OnnxTensor).floatBuffer.let { logits -> FloatArray(logits.remaining()).also { logits.get(it) } }
            }
        } finally {
            feeds.values.forEach { it.close() }
        }
    }

    private fun tensor(values: IntArray, long: Boolean): OnnxTensor {
        val shape = longArrayOf(1, values.size.toLong())
        if (!long) return OnnxTensor.createTensor(environment, IntBuffer.wrap(values), shape)
        return OnnxTensor.createTensor(environment, LongBuffer.wrap(LongArray(values.size) { values[it].toLong() }), shape)
    }

    override fun close() = session.close()

    companion object {
        private val environment = OrtEnvironment.getEnvironment()

        private fun options(threads: Int) = OrtSession.SessionOptions().apply { setIntraOpNumThreads(threads) }
    }
}
