"""The official OpenAI clients for Python (sync and async) and Node, asked the same questions by the same tests."""

import asyncio
import json
import pathlib
import subprocess

import openai

from . import paths

CLIENT_JS = pathlib.Path(__file__).with_name("client.mjs")


class Failure(Exception):
    """An error class of the client, by its name in both languages (APIStatusError's children)."""

    def __init__(self, name, status, code, message, request_id):
        super().__init__(f"{name} {status} {code}: {message}")
        self.name, self.status, self.code, self.message, self.request_id = name, status, code, message, request_id


def _plain(error):
    body = error.body if isinstance(getattr(error, "body", None), dict) else {}
    return Failure(
        type(error).__name__,
        getattr(error, "status_code", None),
        body.get("code"),
        str(error),
        getattr(error, "request_id", None),
    )


class PythonClient:
    def __init__(self, url, bearer, max_retries=0, timeout=30.0):
        options = {"base_url": f"{url}/v1", "api_key": bearer, "max_retries": max_retries}
        self.client = openai.OpenAI(timeout=timeout * paths.SLOWNESS, **options)

    def _call(self, method, **arguments):
        try:
            return method(**arguments)
        except openai.APIError as error:
            raise _plain(error) from error

    def complete(self, **body):
        return json.loads(self._call(self.client.completions.create, **body).model_dump_json())

    def chat(self, **body):
        return json.loads(self._call(self.client.chat.completions.create, **body).model_dump_json())

    def stream(self, stop_after=None, chat=True, **body):
        """The chunks; leaves after @stop_after of them."""
        create = self.client.chat.completions.create if chat else self.client.completions.create
        found = []
        stream = self._call(create, stream=True, **body)
        try:
            for chunk in stream:
                found.append(json.loads(chunk.model_dump_json()))
                if stop_after is not None and len(found) >= stop_after:
                    break
        except openai.APIError as error:
            raise _plain(error) from error
        finally:
            stream.close()
        return found

    def embed(self, **body):
        return [each.embedding for each in self._call(self.client.embeddings.create, **body).data]

    def models(self):
        return [model.id for model in self._call(self.client.models.list)]

    def model(self, name):
        return self._call(self.client.models.retrieve, model=name).id

    def request_id(self, **body):
        return self._call(self.client.completions.create, **body)._request_id


class AsyncPythonClient(PythonClient):
    def __init__(self, url, bearer, max_retries=0, timeout=30.0):
        self.options = {"base_url": f"{url}/v1", "api_key": bearer, "max_retries": max_retries}
        self.timeout = timeout * paths.SLOWNESS

    @property
    def client(self):
        return openai.AsyncOpenAI(timeout=self.timeout, **self.options)

    def _call(self, method, **arguments):
        async def run():
            return await method(**arguments)

        try:
            return asyncio.run(run())
        except openai.APIError as error:
            raise _plain(error) from error

    def models(self):
        async def run():
            return [model.id async for model in self.client.models.list()]

        try:
            return asyncio.run(run())
        except openai.APIError as error:
            raise _plain(error) from error

    def stream(self, stop_after=None, chat=True, **body):
        async def run():
            client = self.client
            create = client.chat.completions.create if chat else client.completions.create
            found = []
            stream = await create(stream=True, **body)
            try:
                async for chunk in stream:
                    found.append(json.loads(chunk.model_dump_json()))
                    if stop_after is not None and len(found) >= stop_after:
                        break
            finally:
                await stream.close()
            return found

        try:
            return asyncio.run(run())
        except openai.APIError as error:
            raise _plain(error) from error


class NodeClient:
    """client.mjs in a process of its own for each call; speaks JSON on standard input and output."""

    def __init__(self, url, bearer, max_retries=0, timeout=30.0):
        self.options = {
            "baseURL": f"{url}/v1",
            "apiKey": bearer,
            "maxRetries": max_retries,
            "timeout": timeout * 1000 * paths.SLOWNESS,
        }

    def _call(self, what, body=None, **more):
        question = {"modules": str(paths.NODE_MODULES), "options": self.options, "what": what, "body": body, **more}
        ran = subprocess.run(
            [paths.NODE, CLIENT_JS],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=60 * paths.SLOWNESS,
        )
        assert ran.returncode == 0, ran.stderr
        answer = json.loads(ran.stdout)
        if "failure" in answer:
            failure = answer["failure"]
            raise Failure(
                failure["name"], failure["status"], failure["code"], failure["message"], failure["request_id"]
            )
        return answer["result"]

    def complete(self, **body):
        return self._call("complete", body)

    def chat(self, **body):
        return self._call("chat", body)

    def stream(self, stop_after=None, chat=True, **body):
        return self._call("stream", body, stopAfter=stop_after, chat=chat)

    def embed(self, **body):
        return self._call("embed", body)

    def models(self):
        return self._call("models")

    def model(self, name):
        return self._call("model", name)

    def request_id(self, **body):
        return self._call("requestId", body)
