package edgebert.app

import edgebert.Answer
import edgebert.Classifier
import edgebert.GoldenCheck
import edgebert.Json
import edgebert.Model
import edgebert.checkGolden

/** Files of a bundle, by their names in it: the assets of an app, or a folder. */
fun interface BundleFiles {
    fun text(name: String): String
}

/** One of the two runtimes. */
fun interface Runtime {
    /** Opens a model file of the bundle for one operating point. */
    fun open(file: String, threads: Int, point: Int): Model
}

/** What came of one text. [millis]: from the text to the answers, tokenizer and all. */
data class Labelled(val answers: List<Answer>, val file: String, val point: Int, val tokens: Int, val millis: Double)

/**
 * A bundle, answering with the runtime and the operating point that each call asks for. One model is open at a time; what is
 * open stays so until another one is asked for. Not for several threads at once.
 *
 * @param runtimes by the names that app.json has for them: "onnx", "tflite".
 */
class Labeller(private val files: BundleFiles, private val runtimes: Map<String, Runtime>) : AutoCloseable {
    private val app = files.text("samples/app.json")
    private val labels = files.text("labels.json")
    private val vocabulary = files.text("vocab.txt")
    private val settings = Json.parse(app) as Map<*, *>
    private val byPoint = (settings["points"] as List<*>).map { point -> (point as Map<*, *>).map { "${it.key}" to "${it.value}" }.toMap() }
    private var opened: Opened? = null

    private class Opened(val runtime: String, val point: Int, val file: String, val classifier: Classifier)

    /** Whether the model reads two texts. */
    val pairs = settings["pairs"] as Boolean

    /** How many operating points the files hold. */
    val points = byPoint.size

    /** Names of the runtimes that this app has, and the bundle has files for. */
    val names = byPoint[0].keys.filter { it in runtimes }

    fun label(text: String, pair: String?, runtime: String, point: Int = 1): Labelled {
        val here = open(runtime, point)
        val second = if (pairs) pair ?: "" else null
        val began = System.nanoTime()
        val answers = here.classifier.classify(text, second)
        val millis = (System.nanoTime() - began) / 1e6
        val tokens = here.classifier.tokenizer.encode(text, second, here.classifier.length).ids.size
        return Labelled(answers, here.file, point, tokens, millis)
    }

    /** The point's golden rows on this very device; see [edgebert.checkGolden]. */
    fun checkGolden(runtime: String, point: Int = 1): GoldenCheck {
        val here = open(runtime, point)
        return checkGolden(here.classifier, files.text(if (point == 1) "golden.json" else "golden_point$point.json"), here.file)
    }

    private fun open(runtime: String, point: Int): Opened {
        opened?.let { if (it.runtime == runtime && it.point == point) return it }
        close()
        val file = requireNotNull(byPoint[point - 1][runtime]) { "this bundle has no file for $runtime" }
        val model = runtimes.getValue(runtime).open(file, (settings["threads"] as Number).toInt(), point)
        return Opened(runtime, point, file, Classifier(app, labels, vocabulary, model)).also { opened = it }
    }

    override fun close() {
        opened?.classifier?.close()
        opened = null
    }
}
