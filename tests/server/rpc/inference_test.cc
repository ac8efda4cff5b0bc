#include "server/rpc/inference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/errors/errors.h"
#include "tests/testing/fake_classifier.h"

namespace tasuki {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

std::string Raw(const std::vector<std::string>& elements) {
  std::string raw;
  for (const std::string& element : elements) {
    const auto length = static_cast<uint32_t>(element.size());
    raw.append({static_cast<char>(length), static_cast<char>(length >> 8),
                static_cast<char>(length >> 16), static_cast<char>(length >> 24)});
    raw += element;
  }
  return raw;
}

inference::ModelInferRequest RequestOf(const std::vector<int64_t>& shape) {
  inference::ModelInferRequest request;
  request.set_model_name("m");
  auto& input = *request.add_inputs();
  input.set_name("text");
  input.set_datatype("BYTES");
  input.mutable_shape()->Assign(shape.begin(), shape.end());
  return request;
}
inference::ModelInferRequest Typed(const std::vector<std::string>& texts) {
  inference::ModelInferRequest request = RequestOf({static_cast<int64_t>(texts.size())});
  request.mutable_inputs(0)->mutable_contents()->mutable_bytes_contents()->Assign(texts.begin(),
                                                                                  texts.end());
  return request;
}
inference::ModelInferRequest WithRaw(const std::vector<int64_t>& shape, const std::string& raw) {
  inference::ModelInferRequest request = RequestOf(shape);
  request.add_raw_input_contents(raw);
  return request;
}
inference::ModelInferRequest Wanting(const std::vector<std::string>& outputs) {
  inference::ModelInferRequest request = Typed({"a"});
  for (const std::string& name : outputs) request.add_outputs()->set_name(name);
  return request;
}

std::string FaultOf(const inference::ModelInferRequest& request) {
  const absl::Status status = ReadInferRequest(request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

Tasks TasksOf(const std::vector<std::string>& tasks) {
  Tasks made;
  for (const std::string& task : tasks) *made.Add() = YesNoTask(task);
  return made;
}

std::string NamesOf(const InferencePlan& plan) {
  return absl::StrJoin(plan.outputs, " ", [](std::string* out, const InferenceOutput& output) {
    out->append(output.name);
  });
}

TEST(ModelResourceName, IsOfAModelAVersionOrAnAlias) {
  EXPECT_EQ(*ModelResourceName("reviews", ""), "models/reviews");
  EXPECT_EQ(*ModelResourceName("reviews", "12"), "models/reviews/versions/12");
  EXPECT_EQ(*ModelResourceName("reviews", "champion"), "models/reviews/aliases/champion");
  for (const auto& [model, version, field] :
       {std::tuple("", "", "model_name"), std::tuple("models/reviews", "", "model_name"),
        std::tuple("../reviews", "", "model_name"), std::tuple("reviews", "03", "model_version"),
        std::tuple("reviews", "99999999999999999999", "model_version"),
        std::tuple("reviews", "Champion", "model_version"),
        std::tuple("reviews", "../1", "model_version")}) {
    const absl::Status status = ModelResourceName(model, version, "model_").status();
    EXPECT_EQ(ReasonOf(status), v1::FIELD_INVALID) << model << " " << version;
    EXPECT_THAT(status.message(), HasSubstr(field));
  }
}

TEST(ReadInferRequest, TakesTextsTypedOrRaw) {
  const std::vector<std::string> texts = {"", "よい", std::string("a\0b", 3)};
  for (const auto& request :
       {Typed(texts), WithRaw({3}, Raw(texts)), WithRaw({3, 1}, Raw(texts))}) {
    const auto order = ReadInferRequest(request);
    ASSERT_TRUE(order.ok()) << order.status();
    EXPECT_THAT(order->request.texts(), testing::ElementsAreArray(texts));
    EXPECT_EQ(order->request.model(), "models/m");
    EXPECT_EQ(order->timeout, absl::InfiniteDuration());
    EXPECT_EQ(order->request.priority(), v1::ClassifyRequest::PRIORITY_UNSPECIFIED);
  }
}

TEST(ReadInferRequest, RefusesRawBytesThatAreNotThoseOfTheShape) {
  EXPECT_THAT(FaultOf(WithRaw({1}, "")), HasSubstr("ends before the length of element 0 of 1"));
  EXPECT_THAT(FaultOf(WithRaw({1}, std::string("\1\0\0", 3))), HasSubstr("before the length"));
  EXPECT_THAT(FaultOf(WithRaw({1}, std::string("\2\0\0\0a", 5))),
              HasSubstr("element 0 has 2 bytes; 1 are left"));
  EXPECT_THAT(FaultOf(WithRaw({1}, "\xff\xff\xff\xff")),
              HasSubstr("element 0 has 4294967295 bytes; 0 are left"));
  EXPECT_THAT(FaultOf(WithRaw({1}, std::string("\xff\xff\xff\x7f", 4) + "abc")),
              HasSubstr("element 0 has 2147483647 bytes; 3 are left"));
  EXPECT_THAT(FaultOf(WithRaw({2}, Raw({"a"}))), HasSubstr("the length of element 1 of 2"));
  EXPECT_THAT(FaultOf(WithRaw({1}, Raw({"a", "b"}))),
              HasSubstr("has 5 bytes after the last of 1 elements"));
}

TEST(ReadInferRequest, RefusesShapes) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{},
                                         {0},
                                         {-1},
                                         {-kHuge - 1},
                                         {1, 0},
                                         {1, 2},
                                         {2, -1},
                                         {1, 1, 1},
                                         {kHuge, kHuge},
                                         {int64_t{1} << 32, int64_t{1} << 32}}) {
    EXPECT_THAT(FaultOf(WithRaw(shape, Raw({"a"}))), HasSubstr("inputs[0].shape"));
  }
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{257}, {kHuge}, {int64_t{1} << 32, 1}}) {
    const absl::Status status = ReadInferRequest(WithRaw(shape, Raw({"a"}))).status();
    EXPECT_EQ(ReasonOf(status), v1::LIMIT_EXCEEDED);
    EXPECT_THAT(status.message(), HasSubstr("inputs[0].shape has"));
  }
  EXPECT_TRUE(ReadInferRequest(Typed(std::vector<std::string>(256, "a"))).ok());
}

TEST(ReadInferRequest, RefusesOtherTensorsAndMixedContents) {
  inference::ModelInferRequest request = Typed({"a"});
  request.mutable_inputs(0)->set_name("texts");
  request.mutable_inputs(0)->set_datatype("FP32");
  EXPECT_THAT(FaultOf(request), AllOf(HasSubstr("\"texts\" is unknown; the one input is \"text\""),
                                      HasSubstr("inputs[0].datatype: \"FP32\" is not \"BYTES\"")))
      << "every fault at once";

  request = Typed({"a"});
  *request.add_inputs() = request.inputs(0);
  EXPECT_THAT(FaultOf(request), HasSubstr("inputs: has 2 tensors"));
  request.clear_inputs();
  EXPECT_THAT(FaultOf(request), HasSubstr("inputs: has 0 tensors"));

  request = Typed({"a", "b"});
  request.mutable_inputs(0)->set_shape(0, 3);
  EXPECT_THAT(FaultOf(request), HasSubstr("bytes_contents: has 2 elements; the shape says 3"));
  request = RequestOf({1});
  request.mutable_inputs(0)->mutable_contents()->add_fp32_contents(1);
  EXPECT_THAT(FaultOf(request), HasSubstr("has 0 elements; the shape says 1"));

  request = Typed({"a"});
  request.add_raw_input_contents(Raw({"a"}));
  EXPECT_THAT(FaultOf(request), HasSubstr("is there beside raw_input_contents"));
  request = WithRaw({1}, Raw({"a"}));
  request.add_raw_input_contents(Raw({"a"}));
  EXPECT_THAT(FaultOf(request), HasSubstr("raw_input_contents: has 2 entries"));
}

TEST(ReadInferRequest, WhateverTheBytesItAnswersOrRefuses) {
  std::mt19937 random(1);
  int taken = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string raw = Raw(std::vector<std::string>(random() % 4, std::string(random() % 6, 'x')));
    for (unsigned change = random() % 3; change > 0 && !raw.empty(); --change) {
      if (random() % 2 == 0) {
        raw[random() % raw.size()] = static_cast<char>(random());
      } else {
        raw.resize(random() % (raw.size() + 1));
      }
    }
    const auto count = static_cast<int64_t>(random() % 5);
    const auto order = ReadInferRequest(WithRaw({count}, raw));
    EXPECT_TRUE(order.ok() || absl::IsInvalidArgument(order.status())) << order.status();
    if (!order.ok()) continue;
    ++taken;
    ASSERT_EQ(order->request.texts_size(), count);
    EXPECT_EQ(Raw({order->request.texts().begin(), order->request.texts().end()}), raw);
  }
  EXPECT_GT(taken, 1000);
}

TEST(ReadInferRequest, UnderstandsParameters) {
  inference::ModelInferRequest request = Typed({"a"});
  auto& parameters = *request.mutable_parameters();
  parameters["priority"].set_uint64_param(2);
  parameters["timeout"].set_int64_param(1500);
  parameters["truncation"].set_string_param("HEAD_AND_TAIL");
  parameters["content_type"].set_string_param("str");  // of other servers
  auto order = ReadInferRequest(request);
  ASSERT_TRUE(order.ok()) << order.status();
  EXPECT_EQ(order->request.priority(), v1::ClassifyRequest::BULK);
  EXPECT_EQ(order->timeout, absl::Microseconds(1500));
  EXPECT_EQ(order->request.truncation(), v1::ClassifyRequest::HEAD_AND_TAIL);

  parameters["priority"].set_int64_param(1);
  parameters["timeout"].set_uint64_param(std::numeric_limits<uint64_t>::max());
  order = ReadInferRequest(request);
  ASSERT_TRUE(order.ok()) << order.status();
  EXPECT_EQ(order->request.priority(), v1::ClassifyRequest::INTERACTIVE);
  EXPECT_GT(order->timeout, absl::Hours(1));
  parameters["timeout"].set_int64_param(0);
  EXPECT_EQ(ReadInferRequest(request)->timeout, absl::InfiniteDuration());
}

TEST(ReadInferRequest, RefusesParametersThatMeanNothing) {
  inference::ModelInferRequest request = Typed({"a"});
  auto& parameters = *request.mutable_parameters();
  parameters["priority"].set_string_param("high");
  parameters["timeout"].set_int64_param(-1);
  parameters["truncation"].set_string_param("MIDDLE");
  EXPECT_THAT(FaultOf(request), AllOf(HasSubstr("parameters[\"priority\"]"),
                                      HasSubstr("parameters[\"timeout\"]"), HasSubstr("MIDDLE")));
  parameters.clear();
  parameters["sequence_id"].set_int64_param(7);
  EXPECT_TRUE(absl::IsUnimplemented(ReadInferRequest(request).status()));
  request = RequestOf({1});
  (*request.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("r");
  EXPECT_TRUE(absl::IsUnimplemented(ReadInferRequest(request).status()));
}

TEST(PlanInference, NamesTheOutputsOfOneTaskBareAndOfSeveralWithTheTask) {
  constexpr char kBare[] = "label probability probabilities labels token_count truncated abstained";
  const Tasks one = TasksOf({"mood"});
  const Tasks two = TasksOf({"mood", "taste"});
  EXPECT_EQ(NamesOf(*PlanInference(Typed({"a"}), one)), kBare);
  EXPECT_THAT(NamesOf(*PlanInference(Typed({"a"}), two)),
              AllOf(HasSubstr("mood.label mood.probability "), HasSubstr(" taste.abstained")));

  inference::ModelInferRequest request = Typed({"a"});
  (*request.mutable_parameters())["task"].set_string_param("taste");
  const auto plan = PlanInference(request, two);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(NamesOf(*plan), kBare);
  ASSERT_EQ(plan->tasks.size(), 1);
  EXPECT_EQ(plan->tasks[0]->name(), "taste");

  (*request.mutable_parameters())["task"].set_string_param("smell");
  const absl::Status unknown = PlanInference(request, two).status();
  EXPECT_EQ(ReasonOf(unknown), v1::TASK_UNKNOWN);
  EXPECT_THAT(unknown.message(), HasSubstr("no task \"smell\"; it has mood, taste."));
  (*request.mutable_parameters())["task"].set_int64_param(1);
  EXPECT_EQ(ReasonOf(PlanInference(request, two).status()), v1::FIELD_INVALID);
}

TEST(PlanInference, AsksOnlyForTheTasksThatSomethingIsWantedOf) {
  const Tasks three = TasksOf({"mood", "taste", "smell"});
  const auto plan = PlanInference(Wanting({"smell.label", "mood.label", "smell.truncated"}), three);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->tasks.size(), 2);
  EXPECT_EQ(plan->tasks[0]->name(), "smell");
  EXPECT_EQ(plan->tasks[1]->name(), "mood");
  EXPECT_THAT(NamesOf(*plan), "smell.label mood.label smell.truncated");
  EXPECT_THAT(
      std::vector<int>({plan->outputs[0].task, plan->outputs[1].task, plan->outputs[2].task}),
      ElementsAre(0, 1, 0));
}

TEST(PlanInference, RefusesOutputsThereAreNot) {
  const Tasks two = TasksOf({"mood", "taste"});
  EXPECT_THAT(PlanInference(Wanting({"mood.label", "label"}), two).status().message(),
              AllOf(HasSubstr("outputs[1].name: \"label\" is unknown; there are mood.label, "),
                    HasSubstr("parameters[\"task\"]")));
  const Tasks one = TasksOf({"mood"});
  EXPECT_THAT(PlanInference(Wanting({"mood.label"}), one).status().message(),
              HasSubstr("there are label, probability"));
  EXPECT_THAT(PlanInference(Wanting({"label", "label"}), one).status().message(),
              HasSubstr("named twice"));

  inference::ModelInferRequest request = Wanting({"label"});
  auto& parameters = *request.mutable_outputs(0)->mutable_parameters();
  parameters["classification"].set_int64_param(2);
  EXPECT_THAT(PlanInference(request, one).status().message(),
              HasSubstr("outputs[0].parameters[\"classification\"]"));
  request.mutable_outputs(0)->set_name("probabilities");
  EXPECT_EQ(PlanInference(request, one)->outputs[0].classes, 2);
  parameters["classification"].set_int64_param(kHuge);
  EXPECT_EQ(PlanInference(request, one)->outputs[0].classes, 2) << "there are no more";
  for (const int64_t wrong : {int64_t{0}, int64_t{-1}, -kHuge}) {
    parameters["classification"].set_int64_param(wrong);
    EXPECT_EQ(ReasonOf(PlanInference(request, one).status()), v1::FIELD_INVALID);
  }
  parameters.clear();
  parameters["shared_memory_region"].set_string_param("r");
  EXPECT_TRUE(absl::IsUnimplemented(PlanInference(request, one).status()));
}

class FillInferResponseTest : public testing::Test {
 protected:
  FillInferResponseTest() {
    // As Classify answers: the most probable first.
    answer_.set_model_version("models/m/versions/7");
    for (const auto& [label, other, probability] :
         {std::tuple("no", "yes", .75), std::tuple("yes", "no", .5)}) {
      v1::Prediction& prediction = *answer_.add_results()->add_predictions();
      prediction.set_label(label);
      for (const auto& [name, value] :
           {std::pair(label, probability), std::pair(other, 1 - probability)}) {
        v1::LabelScore& score = *prediction.add_scores();
        score.set_label(name);
        score.set_probability(value);
      }
      prediction.set_token_count(answer_.results_size() * 300);
      prediction.set_truncated(answer_.results_size() == 2);
    }
  }

  inference::ModelInferResponse Fill(const inference::ModelInferRequest& request) {
    inference::ModelInferResponse response;
    const auto plan = PlanInference(request, tasks_);
    EXPECT_TRUE(plan.ok()) << plan.status();
    FillInferResponse(request, *plan, answer_, response);
    return response;
  }

  const Tasks tasks_ = TasksOf({"mood"});
  v1::ClassifyResponse answer_;
};

TEST_F(FillInferResponseTest, AnswersTypedWhatCameTyped) {
  inference::ModelInferRequest request = Typed({"a", "b"});
  request.set_id("seven");
  const inference::ModelInferResponse response = Fill(request);
  EXPECT_EQ(response.model_name(), "m");
  EXPECT_EQ(response.model_version(), "7");
  EXPECT_EQ(response.id(), "seven");
  EXPECT_EQ(response.raw_output_contents_size(), 0);
  ASSERT_EQ(response.outputs_size(), 7);
  const auto contents = [&](int i) { return response.outputs(i).contents(); };
  EXPECT_THAT(contents(0).bytes_contents(), ElementsAre("no", "yes"));
  EXPECT_THAT(contents(1).fp32_contents(), ElementsAre(.75f, .5f));
  EXPECT_THAT(response.outputs(2).shape(), ElementsAre(2, 2));
  EXPECT_THAT(contents(2).fp32_contents(), ElementsAre(.25f, .75f, .5f, .5f))
      << "columns in the order of the task's labels";
  EXPECT_THAT(response.outputs(3).shape(), ElementsAre(2));
  EXPECT_THAT(contents(3).bytes_contents(), ElementsAre("yes", "no"));
  EXPECT_THAT(contents(4).int_contents(), ElementsAre(300, 600));
  EXPECT_THAT(contents(5).bool_contents(), ElementsAre(false, true));
  EXPECT_THAT(contents(6).bool_contents(), ElementsAre(false, false));
}

TEST_F(FillInferResponseTest, AnswersRawWhatCameRaw) {
  const inference::ModelInferResponse response = Fill(WithRaw({2}, Raw({"a", "b"})));
  ASSERT_EQ(response.raw_output_contents_size(), response.outputs_size());
  for (const auto& output : response.outputs()) EXPECT_FALSE(output.has_contents());
  EXPECT_EQ(response.raw_output_contents(0), Raw({"no", "yes"}));
  const std::string& probabilities = response.raw_output_contents(2);
  std::vector<float> values(4);
  ASSERT_EQ(probabilities.size(), 16);
  std::memcpy(values.data(), probabilities.data(), 16);
  EXPECT_THAT(values, ElementsAre(.25f, .75f, .5f, .5f));
  EXPECT_EQ(response.raw_output_contents(4), std::string("\x2c\1\0\0\x58\2\0\0", 8));
  EXPECT_EQ(response.raw_output_contents(5), std::string("\0\1", 2));
}

TEST_F(FillInferResponseTest, AnswersTheMostProbableLabelsAsTexts) {
  inference::ModelInferRequest request = WithRaw({2}, Raw({"a", "b"}));
  for (const char* name : {"truncated", "probabilities"}) request.add_outputs()->set_name(name);
  auto& classification = (*request.mutable_outputs(1)->mutable_parameters())["classification"];
  classification.set_int64_param(1);
  inference::ModelInferResponse response = Fill(request);
  ASSERT_EQ(response.outputs_size(), 2);
  EXPECT_EQ(response.outputs(1).datatype(), "BYTES");
  EXPECT_THAT(response.outputs(1).shape(), ElementsAre(2, 1));
  EXPECT_EQ(response.raw_output_contents(1), Raw({"0.75:1:no", "0.5:0:yes"}));
  classification.set_int64_param(9);
  response = Fill(request);
  EXPECT_THAT(response.outputs(1).shape(), ElementsAre(2, 2));
  EXPECT_EQ(response.raw_output_contents(1),
            Raw({"0.75:1:no", "0.25:0:yes", "0.5:0:yes", "0.5:1:no"}));
}

TEST(FillTensors, TellsWhatAModelTakesAndAnswers) {
  inference::ModelMetadataResponse metadata;
  FillTensors(TasksOf({"mood", "taste"}), metadata);
  EXPECT_EQ(metadata.platform(), "tasuki_t5");
  ASSERT_EQ(metadata.inputs_size(), 1);
  EXPECT_THAT(metadata.inputs(0).shape(), ElementsAre(-1));
  ASSERT_EQ(metadata.outputs_size(), 14);
  EXPECT_EQ(metadata.outputs(9).name(), "taste.probabilities");
  EXPECT_EQ(metadata.outputs(9).datatype(), "FP32");
  EXPECT_THAT(metadata.outputs(9).shape(), ElementsAre(-1, 2));

  inference::ModelConfig config;
  FillTensors(TasksOf({"mood"}), config);
  ASSERT_EQ(config.output_size(), 7);
  EXPECT_EQ(config.input(0).data_type(), inference::TYPE_STRING);
  EXPECT_EQ(config.output(4).name(), "token_count");
  EXPECT_EQ(config.output(4).data_type(), inference::TYPE_INT32);
  EXPECT_EQ(config.max_batch_size(), 0);
}

}  // namespace
}  // namespace tasuki
