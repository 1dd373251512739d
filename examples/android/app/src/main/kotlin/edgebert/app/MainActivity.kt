package edgebert.app

import android.app.Activity
import android.os.Bundle
import android.text.Editable
import android.text.InputType
import android.text.TextWatcher
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.RadioButton
import android.widget.RadioGroup
import android.widget.ScrollView
import android.widget.TextView
import edgebert.DeviceState
import java.util.Locale
import java.util.concurrent.Executors

/** A text field, the answers below it, and which runtime gives them. */
class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadScheduledExecutor()
    private val typed = Debounced<Pair<String, String>>(PAUSE_MS, worker) { (text, pair) -> answer(text, pair) }
    private lateinit var text: EditText
    private lateinit var pair: EditText
    private lateinit var runtimes: RadioGroup
    private lateinit var golden: Button
    private lateinit var found: TextView

    // Of the worker's thread alone.
    private lateinit var labeller: Labeller
    private lateinit var device: DeviceState
    private var runtime = ""

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(layout())
        worker.execute {
            shown {
                val bundle = AssetBundle(applicationContext)
                labeller = Labeller(bundle, mapOf("onnx" to bundle.onnx, "tflite" to bundle.litert))
                device = DeviceState(applicationContext)
                runtime = labeller.names.first()
                runOnUiThread { begin(labeller.names, labeller.pairs) }
                ""
            }
        }
    }

    override fun onDestroy() {
        worker.execute {
            if (::labeller.isInitialized) labeller.close()
            worker.shutdownNow() // shutdown would still run what waits for a pause in typing
        }
        super.onDestroy()
    }

    private fun layout(): View {
        text = field(R.string.text_hint)
        pair = field(R.string.pair_hint).apply { visibility = View.GONE }
        runtimes = RadioGroup(this).apply { orientation = RadioGroup.HORIZONTAL }
        golden = Button(this).apply { setText(R.string.golden) }
        found = TextView(this).apply {
            setText(R.string.opening)
            textSize = 18f
            accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE
        }
        val column = LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            val edge = (16 * resources.displayMetrics.density).toInt()
            setPadding(edge, edge, edge, edge)
            for (view in listOf(text, pair, runtimes, found, golden)) addView(view)
        }
        for (view in listOf(text, pair, golden)) view.isEnabled = false
        return ScrollView(this).apply {
            fitsSystemWindows = true // from Android 15 on an app draws behind the bars
            addView(column)
        }
    }

    private fun field(hint: Int) = EditText(this).apply {
        setHint(hint)
        inputType = InputType.TYPE_CLASS_TEXT or InputType.TYPE_TEXT_FLAG_MULTI_LINE
        addTextChangedListener(object : TextWatcher {
            override fun afterTextChanged(now: Editable) = ask()
            override fun beforeTextChanged(was: CharSequence, start: Int, count: Int, after: Int) = Unit
            override fun onTextChanged(now: CharSequence, start: Int, before: Int, count: Int) = Unit
        })
    }

    /** The model is there. */
    private fun begin(names: List<String>, pairs: Boolean) {
        for (name in names) runtimes.addView(RadioButton(this).apply { id = View.generateViewId(); setText(TITLES.getValue(name)) })
        runtimes.check(runtimes.getChildAt(0).id)
        runtimes.setOnCheckedChangeListener { group, id ->
            val name = names[group.indexOfChild(group.findViewById(id))]
            worker.execute { runtime = name }
            ask()
        }
        golden.setOnClickListener {
            worker.execute {
                shown {
                    val done = labeller.checkGolden(runtime)
                    val verdict = if (done.ok) "right" else "TOO FAR OFF"
                    "%d golden rows, %s: the same ids; logits off by %.1e, allowed %.1e: %s".format(
                        Locale.ROOT, done.rows, TITLES[runtime], done.off, done.allowed, verdict)
                }
            }
        }
        pair.visibility = if (pairs) View.VISIBLE else View.GONE
        for (view in listOf(text, pair, golden)) view.isEnabled = true
        text.requestFocus()
    }

    private fun ask() = typed.submit(text.text.toString() to pair.text.toString())

    /** On the worker: labels a text with the point that fits the phone's heat and battery now. */
    private fun answer(text: String, pair: String) = shown {
        if (text.isBlank() || !::labeller.isInitialized) return@shown ""
        val done = labeller.label(text, pair, runtime, device.point(labeller.points))
        val lines = done.answers.take(SHOWN).map {
            "%s  %.3f".format(Locale.ROOT, listOfNotNull(it.text, it.label).joinToString(": "), it.score)
        }
        lines.joinToString("\n") + "\n\n%.1f ms, %d tokens, %s, %s".format(
            Locale.ROOT, done.millis, done.tokens, TITLES[runtime], done.file)
    }

    /** Shows what comes of [act], or what went wrong: an app of your own will want to log that instead. */
    private fun shown(act: () -> String) {
        val said = try {
            act()
        } catch (error: Exception) {
            error.message ?: error.javaClass.simpleName
        }
        runOnUiThread { found.text = said }
    }

    private companion object {
        const val PAUSE_MS = 150L
        const val SHOWN = 5
        val TITLES = mapOf("onnx" to "ONNX Runtime", "tflite" to "LiteRT")
    }
}
