"""Destinations as people paste them, and endpoints in all their shapes."""

import pytest

from tenner.core.errors import SettingsError
from tenner.storage.destination_address import parse_destination, parse_destinations
from tenner.storage.endpoint import find_endpoint


@pytest.mark.parametrize(
    ("pasted", "expected"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket//a//b", "s3://bucket/a/b"),
        ("s3:/bucket/a", "s3://bucket/a"),
        ("arn:aws:s3:::bucket/a", "s3://bucket/a"),
        ("https://bucket.s3.eu-west-1.amazonaws.com/a", "s3://bucket/a"),
        ("https://s3.amazonaws.com/bucket/a", "s3://bucket/a"),
        ("https://f" + "0" * 31 + ".r2.cloudflarestorage.com/bucket/a", "s3://bucket/a"),
        ("https://s3.us-west-004.backblazeb2.com/bucket", "s3://bucket"),
        ("hf://me/lora", "hf://me/lora"),
        ("hf://me/My LoRA", "hf://me/My-LoRA"),
        ("hf://me/lora.git", "hf://me/lora"),
        ("hf://me/x/y", "hf://me/x/y"),
        ("https://huggingface.co/me/lora", "hf://me/lora"),
        ("https://huggingface.co/me/lora/tree/main", "hf://me/lora"),
        ("huggingface.co/me/lora", "hf://me/lora"),
        ("file:///out/put", "file:///out/put"),
        ("file:/out/put", "file:///out/put"),
        ("/out/put", "file:///out/put"),
    ],
)
def test_what_people_paste_is_understood(pasted: str, expected: str) -> None:
    assert str(parse_destination(pasted)) == expected


@pytest.mark.parametrize(
    "pasted",
    [
        "",
        "me/lora",
        "s3://",
        "s3://My_Bucket",
        "s3://bucket/../x",
        "s3://bucket?regoin=eu-west-1",
        "s3://bucket?links=8d",
        "hf://me",
        "hf://me/لورا",
        "hf://datasets/me/images",
        "https://example.com/bucket",
        "ftp://host/x",
        "C:\\Users\\me\\out",
        "file://host/out",
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_fix(pasted: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_destination(pasted)
    assert all(problem.fix for problem in raised.value.problems)


def test_all_problems_come_at_once_and_mendings_are_notes() -> None:
    found, problems = parse_destinations(
        ["me/x", "hf://me/My LoRA", "s3://b", "s3://good", "s3://good"]
    )
    assert [str(each) for each in found] == ["hf://me/My-LoRA", "s3://good"]
    assert [problem.level for problem in problems] == ["error", "note", "error"]


def test_a_password_in_a_pasted_address_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as raised:
        parse_destination("https://me:topsecretword@example.com/bucket")
    assert "topsecretword" not in str(raised.value)


def test_options_are_read() -> None:
    destination = parse_destination("s3://b-1/x?region=eu-west-1&links=12h&optional")
    assert destination.region == "eu-west-1"
    assert destination.link_seconds == 12 * 3600
    assert not destination.required


@pytest.mark.parametrize(
    ("pasted", "url", "region"),
    [
        ("minio:9000", "http://minio:9000", "us-east-1"),
        ("http://10.0.0.5:9000/", "http://10.0.0.5:9000", "us-east-1"),
        (
            "https://b.fra1.digitaloceanspaces.com",
            "https://fra1.digitaloceanspaces.com",
            "fra1",
        ),
        ("s3.us-west-004.backblazeb2.com", "https://s3.us-west-004.backblazeb2.com", "us-west-004"),
        (
            "a.r2.cloudflarestorage.com/b",
            "https://a.r2.cloudflarestorage.com",
            "auto",
        ),
        ("https://s3.eu-west-1.amazonaws.com", None, "eu-west-1"),
        ("", None, None),
    ],
)
def test_endpoints_in_the_shapes_people_paste(pasted: str, url: str, region: str) -> None:
    found = find_endpoint("b", requested=None, env={"AWS_ENDPOINT_URL": pasted})
    assert (found.url, found.region) == (url, region)


def test_an_endpoint_that_cannot_be_read_is_reported() -> None:
    with pytest.raises(ValueError, match="ftp"):
        find_endpoint("loras", requested="ftp://host", env={})
