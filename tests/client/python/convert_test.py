"""tasuki.convert against what transformers writes. Run by script/verify faithful in the peers' environment."""

import os
import pickle
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parents[3] / "client" / "python"))
from tasuki.convert import convert, main

TINY = dict(vocab_size=64, d_model=16, d_ff=32, d_kv=4, num_heads=4, num_layers=2, decoder_start_token_id=0)


class Trap:
    """Unpickled by plain pickle, it would create the file at `path`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


class Convert(unittest.TestCase):
    def setUp(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.directory = Path(kept.name)

    def pickled(self, shard_size="1GB", **config):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(T5Config(**TINY, **config))
        model.save_pretrained(self.directory, safe_serialization=False, max_shard_size=shard_size)
        self.assertFalse(list(self.directory.glob("*.safetensors")))
        return model

    def reopened(self):
        # Without the pickles, so that nothing else can be what is read.
        for path in self.directory.glob("pytorch_model*"):
            path.unlink()
        model, info = T5ForConditionalGeneration.from_pretrained(self.directory, output_loading_info=True)
        self.assertEqual(info["missing_keys"], [])
        self.assertEqual(info["unexpected_keys"], [])
        return model

    def assertSame(self, a, b):
        a, b = a.state_dict(), b.state_dict()
        self.assertEqual(a.keys(), b.keys())
        for name in a:
            self.assertEqual(a[name].dtype, b[name].dtype)
            self.assertTrue(torch.equal(a[name], b[name]), name)

    def test_a_tied_head_is_written_once(self):
        model = self.pickled()
        names = load_file(convert(self.directory)).keys()
        self.assertIn("shared.weight", names)
        self.assertFalse({"lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"} & set(names))
        self.assertSame(model, self.reopened())

    def test_an_untied_head_is_kept(self):
        model = self.pickled(tie_word_embeddings=False, feed_forward_proj="gated-gelu")
        self.assertIn("lm_head.weight", load_file(convert(self.directory)))
        self.assertSame(model, self.reopened())

    def test_shards(self):
        model = self.pickled(shard_size="8KB")
        self.assertGreater(len(list(self.directory.glob("pytorch_model-*.bin"))), 1)
        convert(self.directory)
        self.assertSame(model, self.reopened())

    def test_dtypes_stay(self):
        torch.save({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.float16)}, self.directory / "pytorch_model.bin")
        written = load_file(convert(self.directory))
        self.assertEqual([written["a"].dtype, written["b"].dtype], [torch.bfloat16, torch.float16])

    def test_parts_of_one_storage_become_copies(self):
        whole = torch.arange(8.0)
        torch.save({"a": whole[:4], "b": whole[4:], "c": whole.view(2, 4).t()}, self.directory / "pytorch_model.bin")
        written = load_file(convert(self.directory))
        self.assertTrue(torch.equal(written["b"], whole[4:]))
        self.assertTrue(torch.equal(written["c"], whole.view(2, 4).t()))

    def test_a_pickle_that_runs_code_is_refused(self):
        trap = self.directory / "trap"
        with open(self.directory / "pytorch_model.bin", "wb") as file:
            pickle.dump({"a": Trap(str(trap))}, file, protocol=2)
        self.assertEqual(main([str(self.directory)]), 1)
        self.assertFalse(trap.exists())
        self.assertFalse(list(self.directory.glob("model.*")))

    def test_what_is_there_is_not_overwritten(self):
        self.pickled()
        (self.directory / "model.safetensors").write_bytes(b"mine")
        self.assertEqual(main([str(self.directory)]), 1)
        self.assertEqual((self.directory / "model.safetensors").read_bytes(), b"mine")
        self.assertEqual(main([str(self.directory), "--force"]), 0)
        self.assertIn("shared.weight", load_file(self.directory / "model.safetensors"))

    def test_a_directory_without_weights(self):
        self.assertEqual(main([str(self.directory)]), 1)

    def test_what_is_no_pickle_of_weights_is_named(self):
        bin = self.directory / "pytorch_model.bin"
        bin.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        with self.assertRaisesRegex(ValueError, "git lfs pull"):
            convert(self.directory)
        bin.write_bytes(b"")
        with self.assertRaisesRegex(ValueError, "ends too early"):
            convert(self.directory)
        for content in ({}, {"a": 1}, {1: torch.ones(1)}, [torch.ones(1)], {"a": torch.ones(1, dtype=torch.int64)}):
            torch.save(content, bin)
            with self.assertRaises(ValueError, msg=content):
                convert(self.directory)
        self.assertEqual([path.name for path in self.directory.iterdir()], [bin.name])

    def test_an_index_lists_what_its_shards_have(self):
        torch.save({"a": torch.ones(1)}, self.directory / "pytorch_model-1.bin")
        index = self.directory / "pytorch_model.bin.index.json"
        for text in ("[1]", "null", "{}", '{"weight_map": {}}', '{"weight_map": {"a": ".."}}', '{"weight_map": {"a": ""}}',
                     '{"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-1.bin"}}'):
            index.write_text(text)
            with self.assertRaises(ValueError, msg=text):
                convert(self.directory)
        index.write_text('{"weight_map": {"a": "pytorch_model-1.bin"}}')
        self.assertIn("a", load_file(convert(self.directory)))

    def test_sharded_safetensors_are_not_doubled(self):
        self.pickled()
        (self.directory / "model-00001-of-00002.safetensors").write_bytes(b"mine")
        with self.assertRaises(FileExistsError):
            convert(self.directory)

    def test_an_index_cannot_lead_elsewhere(self):
        (self.directory / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../elsewhere.bin"}}')
        with self.assertRaises(ValueError):
            convert(self.directory)


if __name__ == "__main__":
    unittest.main(verbosity=1)
